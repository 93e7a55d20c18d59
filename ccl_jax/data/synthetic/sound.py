"""The sound of a scene: a voice by eq. 1 of `scene`, clicks, and distractors.

A vowel v consists of harmonics of the pitch f0, with gains by two formants,

    gain_v(f) = 0.02 + sum_i exp(-((f - formant_i) / width_i)^2 / 2)        (1)

and a click is noise that decays and has no low frequencies. Hum, a noise floor
and chirps have bands of their own.
"""

import numpy as np
from jaxtyping import Float

from ccl_jax.data.synthetic.scene import VOWELS, Scene, envelope

_CLICK_DECAY = 0.012  # seconds


def render_vowel(
  vowel: str, pitch: float, time: Float[np.ndarray, " s"]
) -> Float[np.ndarray, " s"]:
  """Returns the vowel without its envelope, of rms `loudness` / 10."""
  harmonics = pitch * np.arange(1, int(2800 / pitch) + 1)
  gains = 0.02 + sum(
    np.exp(-0.5 * ((harmonics - formant) / width) ** 2)
    for formant, width in zip(VOWELS[vowel].formants, (90, 130), strict=True)
  )
  # Phases that grow with h^2 keep the harmonics from peaking together.
  phases = np.pi * np.arange(len(harmonics)) ** 2 / len(harmonics)
  waves = np.sin(2 * np.pi * harmonics[:, None] * time + phases[:, None])
  rms = np.sqrt((gains**2).sum() / 2)
  return 0.1 * VOWELS[vowel].loudness / rms * (gains @ waves)


def render_sound(
  scene: Scene, sample_rate: int = 16000
) -> Float[np.ndarray, " s"]:
  """Returns the clip's sound in [-1, 1], float32, at `sample_rate`."""
  num = round(scene.seconds * sample_rate)
  time = np.arange(num) / sample_rate
  rng = np.random.default_rng((scene.seed, 2))
  sound = rng.normal(0, 0.001, num)
  sound += scene.hum * np.sin(2 * np.pi * 60 * time)
  for syllable in scene.syllables:
    span = slice(*np.searchsorted(time, syllable[1:]))
    voiced = render_vowel(syllable.vowel, scene.voice.pitch, time[span])
    sound[span] += voiced * envelope(syllable, time[span])
  for start, low, high in scene.chirps:
    span = slice(*np.searchsorted(time, (start, start + 0.12)))
    t = time[span] - start
    phase = 2 * np.pi * (low * t + (high - low) * t**2 / 0.24)
    sound[span] += 0.05 * np.sin(phase) * np.sin(np.pi * t / 0.12) ** 2
  sound += _clicks(scene, time, rng)
  return np.clip(sound, -1, 1).astype(np.float32)


def _clicks(scene: Scene, time: np.ndarray, rng) -> np.ndarray:
  """Returns decaying noise at the impacts, high-passed at 4200-4800 Hz."""
  if scene.ball is None:
    return np.zeros_like(time)
  since = time[:, None] - scene.impacts
  decay = np.where(since >= 0, np.exp(-np.maximum(since, 0) / _CLICK_DECAY), 0)
  spectrum = np.fft.rfft(rng.normal(0, 0.4, len(time)) * decay.sum(1))
  frequency = np.fft.rfftfreq(len(time), time[1])
  passed = np.clip((frequency - 4200) / 600, 0, 1)
  passed *= np.clip((7900 - frequency) / 400, 0, 1)
  return np.fft.irfft(spectrum * passed, len(time))

"""SynchWorld: synthetic audio-visual scenes with exactly known ground truth.

A clip shows a *talker*, a face whose colour determines the pitch of its voice.
It speaks 3 to 5 syllables of four vowels; a vowel has two formants, a loudness
and a mouth shape, and one envelope e(t) drives both its sound and its mouth, so
the lag is 0 by construction:

    sound(t)      = e(t) loudness_v sum_h gain_v(h f0) sin(2 pi h f0 t)     (1)
    half height   = 1 + 6 opening_v e(t)                                    (2)

In 6 of 10 clips a *striker*, a ball of height |sin(pi (t - phase) / period)|,
clicks at each impact t = phase + n period.                                 (3)

Everything else is a distractor. Video: a drifting square that may have the
face's colour and, in *hard* clips, a moving head and a silent "TV" mouth.
Sound: hum, a noise floor, chirps from off screen. Their bands are disjoint:
speech energy 180-1300 Hz, chirps 1500-2000 Hz, clicks above 4200 Hz.

`draw_scene` draws sound and video from separate random streams: the easy and
the hard clip of one seed have the same sound. Lengths are 64ths of the frame,
times are seconds, and frame i shows time i / fps.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

ATTACK, RELEASE, GAP = 0.09, 0.11, 0.09
CLICK_DECAY = 0.012
# The mouth, 6 below, then fills one column of 8-pixel patches, which the linear
# codecs preserve.
HEAD = (28.0, 34.0)
REST_WIDTH = 4.0


class Voice(NamedTuple):
  """Identity of a talker: the colour of the face and the pitch of the voice."""

  colour: str
  rgb: tuple[float, float, float]
  name: str
  pitch: float


class Vowel(NamedTuple):
  """Formants in Hz, loudness, peak mouth opening (0-1) and half width."""

  formants: tuple[float, float]
  loudness: float
  opening: float
  width: float


class Syllable(NamedTuple):
  """One vowel from `start` to `stop`."""

  vowel: str
  start: float
  stop: float


class Chirp(NamedTuple):
  """Sweep of 0.12 s from `low` to `high` Hz."""

  start: float
  low: float
  high: float


class Ball(NamedTuple):
  """Ball with impacts at `phase` + n `period`."""

  phase: float
  period: float


class Appearance(NamedTuple):
  """Facts of the video only: places, motion and the silent TV mouth."""

  head: tuple[float, float]
  sway: tuple[float, float]
  sway_rate: tuple[float, float]
  sway_phase: tuple[float, float]
  square: tuple[float, float]
  drift: tuple[float, float]
  square_rgb: tuple[float, float, float]
  ground: float
  tv: tuple[Syllable, ...]


VOICES = (
  Voice("red", (0.92, 0.20, 0.18), "low", 105.0),
  Voice("green", (0.15, 0.80, 0.25), "middle", 160.0),
  Voice("blue", (0.20, 0.30, 0.95), "high", 240.0),
)
VOWELS = {
  "a": Vowel((750, 1150), 1.0, 1.0, 5.0),
  "i": Vowel((280, 2300), 0.7, 0.5, 6.5),
  "u": Vowel((320, 700), 0.4, 0.6, 2.8),
  "o": Vowel((500, 900), 0.75, 0.85, 4.2),
}


@dataclasses.dataclass(frozen=True)
class Scene:
  """One clip before it is rendered."""

  seed: int
  hard: bool
  seconds: float
  voice: Voice
  syllables: tuple[Syllable, ...]
  ball: Ball | None
  chirps: tuple[Chirp, ...]
  hum: float
  appearance: Appearance

  @property
  def speech(self) -> str:
    """Returns the vowels in order, such as "a u i"."""
    return " ".join(s.vowel for s in self.syllables)

  @property
  def impacts(self) -> Float[np.ndarray, " i"]:
    """Times of the impacts and their clicks; empty without a ball."""
    if self.ball is None:
      return np.zeros(0)
    return np.arange(self.ball.phase, self.seconds, self.ball.period)


def draw_scene(seed: int, hard: bool = False, seconds: float = 1.96) -> Scene:
  """Draws the scene of a seed; easy and hard ones have the same sound.

  Raises:
    ValueError: `seconds` is too short for five syllables.
  """
  if seconds < 1.9:
    raise ValueError(
      f"Five syllables need 1.9 s or more, got {seconds=}; use more frames."
    )
  sound = np.random.default_rng((seed, 0))
  voice = VOICES[sound.integers(3)]
  ball = None
  if sound.random() < 0.6:
    period = sound.uniform(0.45, 0.75)
    ball = Ball(sound.uniform(0.1, period), period)
  return Scene(
    seed=seed,
    hard=hard,
    seconds=seconds,
    voice=voice,
    syllables=_draw_syllables(sound, seconds),
    ball=ball,
    chirps=tuple(
      Chirp(sound.uniform(0, seconds - 0.12), *sound.uniform(1500, 2000, 2))
      for _ in range(sound.integers(3))
    ),
    hum=sound.uniform(0.01, 0.03),
    appearance=_draw_appearance(
      np.random.default_rng((seed, 1)), hard, seconds
    ),
  )


def _draw_syllables(rng, seconds: float) -> tuple[Syllable, ...]:
  """Draws 3 to 5 syllables of 0.22-0.26 s with GAP or more between them."""
  num = rng.integers(3, 6)
  slot = (seconds - 0.15) / num
  syllables = []
  for i in range(num):
    length = rng.uniform(0.22, 0.26)
    start = 0.1 + slot * i + rng.uniform(0, slot - GAP - length)
    vowel = rng.choice(list(VOWELS))
    syllables.append(Syllable(str(vowel), start, start + length))
  return tuple(syllables)


def _draw_appearance(rng, hard: bool, seconds: float) -> Appearance:
  def pair(low, high):
    return tuple(rng.uniform(low, high, 2))

  return Appearance(
    head=tuple(HEAD + rng.uniform(-1, 1, 2)),
    square=(rng.uniform(6, 34), rng.uniform(6, 11)),
    drift=(rng.uniform(-6, 6), rng.uniform(-2, 2)),
    square_rgb=VOICES[rng.integers(3)].rgb,
    ground=rng.uniform(0.55, 0.75),
    sway=pair(2, 4) if hard else (0.0, 0.0),
    sway_rate=pair(0.3, 0.7),
    sway_phase=pair(0, 2 * np.pi),
    tv=_draw_syllables(rng, seconds) if hard else (),
  )


def envelope(
  syllable: Syllable, time: Float[np.ndarray, " t"]
) -> Float[np.ndarray, " t"]:
  """Returns e(t) of one syllable: smooth attack and release, 1 in between."""
  rise = np.clip((time - syllable.start) / ATTACK, 0, 1)
  fall = np.clip((syllable.stop - time) / RELEASE, 0, 1)
  return np.sin(np.pi / 2 * rise) ** 2 * np.sin(np.pi / 2 * fall) ** 2


def mouth_shape(
  syllables: tuple[Syllable, ...], time: Float[np.ndarray, " t"]
) -> tuple[Float[np.ndarray, " t"], Float[np.ndarray, " t"]]:
  """Returns half height (2) and half width of the mouth at each time."""
  height, width = np.ones_like(time), np.full_like(time, REST_WIDTH)
  for syllable in syllables:
    e, vowel = envelope(syllable, time), VOWELS[syllable.vowel]
    height += 6 * vowel.opening * e
    width += (vowel.width - REST_WIDTH) * e
  return height, width


def make_captions(scene: Scene) -> dict[str, str]:
  """Returns the captions "video", "speech" and "audio", in few fixed words."""
  adjective = "moving " if scene.hard else ""
  video = [f"A {adjective}{scene.voice.colour} face talks."]
  audio = [f"A {scene.voice.name} voice."]
  if scene.hard:
    video.append("A TV flickers.")
  if scene.ball:
    video.append("A ball bounces.")
    audio.append("Clicks.")
  return {
    "video": " ".join(video),
    "speech": scene.speech,
    "audio": " ".join(audio),
  }


def render_vowel(
  vowel: str, pitch: float, time: Float[np.ndarray, " s"]
) -> Float[np.ndarray, " s"]:
  """Returns the vowel of (1) without its envelope, of rms `loudness` / 10."""
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
  decay = np.where(since >= 0, np.exp(-np.maximum(since, 0) / CLICK_DECAY), 0)
  spectrum = np.fft.rfft(rng.normal(0, 0.4, len(time)) * decay.sum(1))
  frequency = np.fft.rfftfreq(len(time), time[1])
  passed = np.clip((frequency - 4200) / 600, 0, 1)
  passed *= np.clip((7900 - frequency) / 400, 0, 1)
  return np.fft.irfft(spectrum * passed, len(time))

"""Log-mel spectrograms and their inversion to a waveform, by librosa.

The wave is clipped to [-1, 1] and padded by reflection with (n_fft - hop) / 2
samples on each side, so that s samples make s // hop frames of n_fft samples
with a periodic Hann window w:

  mel[t] = log max(1e-5, B sqrt(|rfft(w * frame_t)|^2 + 1e-9))             (1)

B is the slaney filter bank from 0 to half of the sample rate. MMAudio's models
use base 10 at 16 kHz and the natural logarithm at 44.1 kHz. The inverse finds a
non-negative magnitude S with B S = exp mel, then its phase by the fast
Griffin-Lim iteration (Perraudin et al. 2013). The first phases are the same for
every item of a batch, so that a wave depends on its own log-mel alone.
"""

import dataclasses
import functools
import math

import librosa
import numpy as np
from einops import rearrange
from jaxtyping import Float

_FLOOR = 1e-5
_GRIFFIN_LIM_STEPS = 32
_LOUDEST = 5.0  # log-mel, far above that of any sound


@dataclasses.dataclass(frozen=True)
class MelConfig:
  """Constants of (1): rate in Hz, lengths in samples, base of the logarithm."""

  sample_rate: int = 16_000
  n_fft: int = 1024
  hop: int = 256
  num_mels: int = 80
  base: float = 10.0

  @property
  def padding(self) -> int:
    """Returns the number of samples that are reflected on each side."""
    return (self.n_fft - self.hop) // 2

  @property
  def least_samples(self) -> int:
    """Returns the shortest length: two frames, and enough to reflect."""
    return max(2 * self.hop, self.padding + 1)


MEL_16K = MelConfig()
MEL_44K = MelConfig(44_100, n_fft=2048, hop=512, num_mels=128, base=math.e)

SAMPLE_RATE = MEL_16K.sample_rate
NUM_MELS = MEL_16K.num_mels
HOP = MEL_16K.hop
SILENCE = -5.0  # log10 of the floor: the smallest value of a log-mel.


def log_mel(
  wave: Float[np.ndarray, "b s"], config: MelConfig = MEL_16K
) -> Float[np.ndarray, "b t mel"]:
  """Returns (1) with t = s // hop; at 16 kHz in about [-5, 1.5].

  Raises:
    ValueError: fewer than `least_samples`.
  """
  if wave.ndim != 2 or wave.shape[1] < config.least_samples:
    raise ValueError(
      f"{wave.shape=}: expected (b, s) with at least"
      f" {config.least_samples} samples."
    )
  padding = ((0, 0), (config.padding, config.padding))
  padded = np.pad(np.clip(wave, -1, 1), padding, mode="reflect")
  spectrum = librosa.stft(
    padded.astype(np.float32),
    n_fft=config.n_fft,
    hop_length=config.hop,
    center=False,
  )
  power = np.square(spectrum.real) + np.square(spectrum.imag)
  magnitude = rearrange(np.sqrt(power + 1e-9), "b bin t -> b t bin")
  mel = np.log(np.maximum(magnitude @ filter_bank(config).T, _FLOOR))
  return mel / np.float32(math.log(config.base))


def griffin_lim(
  mel: Float[np.ndarray, "b t mel"],
  config: MelConfig = MEL_16K,
) -> Float[np.ndarray, "b s"]:
  """Returns a wave of s = hop t samples whose log-mel is close to `mel`.

  What an untrained model makes may not be finite: that is silence, or loud.
  """
  mel = np.minimum(np.nan_to_num(mel, nan=SILENCE), _LOUDEST)
  magnitudes = rearrange(_magnitude(mel, config), "b t bin -> b bin t")
  waves = [
    librosa.griffinlim(
      magnitude,
      n_iter=_GRIFFIN_LIM_STEPS,
      n_fft=config.n_fft,
      hop_length=config.hop,
      center=False,
      random_state=0,  # of each item: one draw for a batch would mix them
    )
    for magnitude in magnitudes
  ]
  return np.stack([x[config.padding : len(x) - config.padding] for x in waves])


@functools.cache
def filter_bank(config: MelConfig = MEL_16K) -> Float[np.ndarray, "mel bin"]:
  """Returns B: triangles evenly spaced in mel, each of unit area (slaney)."""
  return librosa.filters.mel(
    sr=config.sample_rate, n_fft=config.n_fft, n_mels=config.num_mels
  )


def _magnitude(
  mel: Float[np.ndarray, "b t mel"], config: MelConfig, num_iterations: int = 30
) -> Float[np.ndarray, "b t bin"]:
  """Returns S >= 0 with B S close to exp mel.

  S *= B'(exp mel) / B'B S is iterated (Lee, Seung 2001); the clamped
  pseudo-inverse is three to nine times less exact on real sound.
  """
  bank = filter_bank(config)
  target = (config.base**mel).astype(np.float32) @ bank
  magnitude = target / (bank.sum(0) + 1e-6)
  for _ in range(num_iterations):
    magnitude *= target / (magnitude @ bank.T @ bank + 1e-9)
  return magnitude

"""Log-mel spectrograms and the way back to a waveform, by librosa.

The wave is clipped to [-1, 1] and padded by reflection with (n_fft - hop) / 2
samples on each side, so s samples give s // hop frames of n_fft samples under
a periodic Hann window w:

  mel[t] = log max(1e-5, B sqrt(|rfft(w * frame_t)|^2 + 1e-9))             (1)

B is the slaney filter bank from 0 to half of the sample rate. These are the
front ends of MMAudio: at 16 kHz with a logarithm to base 10, at 44.1 kHz with
the natural one. The way back finds a non-negative magnitude S with B S = exp
mel, then its phase by the fast Griffin-Lim iteration (Perraudin et al. 2013)
from a fixed start: the same mel always gives the same samples.
"""

import dataclasses
import functools
import math

import librosa
import numpy as np
from einops import rearrange
from jaxtyping import Float

_FLOOR = 1e-5


@dataclasses.dataclass(frozen=True)
class Mel:
  """What (1) needs to know: rate in Hz, lengths in samples, the log's base."""

  sample_rate: int = 16_000
  n_fft: int = 1024
  hop: int = 256
  num_mels: int = 80
  base: float = 10.0

  @property
  def padding(self) -> int:
    """Samples that are reflected on each side."""
    return (self.n_fft - self.hop) // 2

  @property
  def least_samples(self) -> int:
    """Of a wave: reflection needs more than it pads, two latents one."""
    return max(2 * self.hop, self.padding + 1)


MEL_16K = Mel()
MEL_44K = Mel(44_100, n_fft=2048, hop=512, num_mels=128, base=math.e)

SAMPLE_RATE = MEL_16K.sample_rate
NUM_MELS = MEL_16K.num_mels
HOP = MEL_16K.hop
SILENCE = -5.0  # log10 of the floor: the least value of a log-mel.


def log_mel(
  wave: Float[np.ndarray, "b s"], settings: Mel = MEL_16K
) -> Float[np.ndarray, "b t mel"]:
  """Equation (1) with t = s // hop; at 16 kHz in about [-5, 1.5].

  Raises:
    ValueError: fewer than two hops of samples, or too few to reflect.
  """
  if wave.ndim != 2 or wave.shape[1] < settings.least_samples:
    raise ValueError(
      f"{wave.shape=}: expected (b, s) with at least"
      f" {settings.least_samples} samples."
    )
  padding = ((0, 0), (settings.padding, settings.padding))
  padded = np.pad(np.clip(wave, -1, 1), padding, mode="reflect")
  spectrum = librosa.stft(
    padded.astype(np.float32),
    n_fft=settings.n_fft,
    hop_length=settings.hop,
    center=False,
  )
  power = np.square(spectrum.real) + np.square(spectrum.imag)
  magnitude = rearrange(np.sqrt(power + 1e-9), "b bin t -> b t bin")
  mel = np.log(np.maximum(magnitude @ filter_bank(settings).T, _FLOOR))
  return mel / np.float32(math.log(settings.base))


def griffin_lim(
  mel: Float[np.ndarray, "b t mel"],
  num_iterations: int = 32,
  settings: Mel = MEL_16K,
) -> Float[np.ndarray, "b s"]:
  """A wave of s = hop t samples whose log-mel is near `mel`."""
  wave = librosa.griffinlim(
    rearrange(_magnitude(mel, settings), "b t bin -> b bin t"),
    n_iter=num_iterations,
    n_fft=settings.n_fft,
    hop_length=settings.hop,
    center=False,
    random_state=0,
  )
  return wave[:, settings.padding : wave.shape[1] - settings.padding]


@functools.cache
def filter_bank(settings: Mel = MEL_16K) -> Float[np.ndarray, "mel bin"]:
  """B: triangles evenly spaced in mel, each of unit area (slaney)."""
  return librosa.filters.mel(
    sr=settings.sample_rate, n_fft=settings.n_fft, n_mels=settings.num_mels
  )


def _magnitude(
  mel: Float[np.ndarray, "b t mel"], settings: Mel, num_iterations: int = 30
) -> Float[np.ndarray, "b t bin"]:
  """S >= 0 with B S near exp mel: S *= B'(exp mel) / B'B S (Lee, Seung 2001).

  The clamped pseudo-inverse is three to nine times less exact on real sound.
  """
  bank = filter_bank(settings)
  target = (settings.base**mel).astype(np.float32) @ bank
  magnitude = target / (bank.sum(0) + 1e-6)
  for _ in range(num_iterations):
    magnitude *= target / (magnitude @ bank.T @ bank + 1e-9)
  return magnitude

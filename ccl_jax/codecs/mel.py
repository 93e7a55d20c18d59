"""Log-mel spectrograms and the way back to a waveform, by librosa.

The wave is padded by reflection with (1024 - 256) / 2 samples on each side, so
s samples give s // 256 frames of 1024 samples under a periodic Hann window:

  mel[t] = log10 max(1e-5, B |rfft(w * frame_t)|)                          (1)

B (80 x 513) is the slaney filter bank from 0 to 8 kHz. These are the settings
of MMAudio's 16 kHz models. The way back finds a non-negative magnitude S with
B S = 10^mel, then its phase by the fast Griffin-Lim iteration (Perraudin et al.
2013) from a fixed start: the same mel always gives the same samples.
"""

import functools

import librosa
import numpy as np
from einops import rearrange
from jaxtyping import Float

SAMPLE_RATE = 16_000
NUM_MELS = 80
HOP = 256
_N_FFT = 1024
_PAD = (_N_FFT - HOP) // 2
_FLOOR = 1e-5
SILENCE = -5.0  # log10 of the floor: the least value of a log-mel.


def log_mel(wave: Float[np.ndarray, "b s"]) -> Float[np.ndarray, "b t 80"]:
  """Equation (1) with t = s // 256, in about [-5, 1.5] for |wave| <= 1.

  Raises:
    ValueError: fewer than 512 samples (reflection needs more than it pads).
  """
  if wave.ndim != 2 or wave.shape[1] < 2 * HOP:
    raise ValueError(
      f"{wave.shape=}: expected (b, s) with at least {2 * HOP} samples."
    )
  padded = np.pad(wave, ((0, 0), (_PAD, _PAD)), mode="reflect")
  spectrum = librosa.stft(
    padded.astype(np.float32), n_fft=_N_FFT, hop_length=HOP, center=False
  )
  magnitude = rearrange(np.abs(spectrum), "b bin t -> b t bin")
  return np.log10(np.maximum(magnitude @ filter_bank().T, _FLOOR))


def griffin_lim(
  mel: Float[np.ndarray, "b t 80"], num_iterations: int = 32
) -> Float[np.ndarray, "b s"]:
  """A wave of s = 256 t samples whose log-mel is near `mel`."""
  wave = librosa.griffinlim(
    rearrange(_magnitude(mel), "b t bin -> b bin t"),
    n_iter=num_iterations,
    n_fft=_N_FFT,
    hop_length=HOP,
    center=False,
    random_state=0,
  )
  return wave[:, _PAD : wave.shape[1] - _PAD]


@functools.cache
def filter_bank() -> Float[np.ndarray, "80 513"]:
  """B: triangles evenly spaced in mel, each of unit area (slaney)."""
  return librosa.filters.mel(sr=SAMPLE_RATE, n_fft=_N_FFT, n_mels=NUM_MELS)


def _magnitude(
  mel: Float[np.ndarray, "b t 80"], num_iterations: int = 30
) -> Float[np.ndarray, "b t 513"]:
  """S >= 0 with B S near 10^mel: S *= B'(10^mel) / B'B S (Lee, Seung 2001).

  The clamped pseudo-inverse is three to nine times less exact on real sound.
  """
  bank = filter_bank()
  target = (10.0**mel).astype(np.float32) @ bank
  magnitude = target / (bank.sum(0) + 1e-6)
  for _ in range(num_iterations):
    magnitude *= target / (magnitude @ bank.T @ bank + 1e-9)
  return magnitude

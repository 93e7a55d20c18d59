"""Log-mel spectrograms and the way back to a waveform.

The wave is padded by reflection with (1024 - 256) / 2 samples on each side, so
s samples give s // 256 frames of 1024 samples under a periodic Hann window:

  mel[t] = log10 max(1e-5, B |rfft(w * frame_t)|)                          (1)

B (80 x 513) is the slaney filter bank from 0 to 8 kHz, equal to
`librosa.filters.mel(sr=16000, n_fft=1024, n_mels=80)`. These are the settings
of MMAudio's 16 kHz models. The way back finds a non-negative magnitude S with
B S = 10^mel, then its phase by the fast Griffin-Lim iteration (Perraudin et al.
2013) from a fixed start: the same mel always gives the same samples.
"""

import functools

import numpy as np
from jaxtyping import Complex64, Float

SAMPLE_RATE = 16_000
NUM_MELS = 80
HOP = 256
_N_FFT = 1024
_PAD = (_N_FFT - HOP) // 2
_FLOOR = 1e-5
SILENCE = -5.0  # log10 of the floor: the least value of a log-mel.
_MOMENTUM = 0.99


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
  magnitude = np.abs(_stft(padded.astype(np.float32)))
  return np.log10(np.maximum(magnitude @ filter_bank().T, _FLOOR))


def griffin_lim(
  mel: Float[np.ndarray, "b t 80"], num_iterations: int = 32
) -> Float[np.ndarray, "b s"]:
  """A wave of s = 256 t samples whose log-mel is near `mel`."""
  magnitude = _magnitude(mel)
  angle = np.random.default_rng(0).uniform(0, 2 * np.pi, magnitude.shape)
  phase = np.exp(1j * angle).astype(np.complex64)
  previous = np.zeros_like(phase)
  for _ in range(num_iterations):
    rebuilt = _stft(_inverse_stft(magnitude * phase))
    phase = rebuilt - _MOMENTUM / (1 + _MOMENTUM) * previous
    phase /= np.abs(phase) + 1e-16
    previous = rebuilt
  wave = _inverse_stft(magnitude * phase)
  return wave[:, _PAD : wave.shape[1] - _PAD]


@functools.cache
def filter_bank() -> Float[np.ndarray, "80 513"]:
  """B: triangles evenly spaced in mel, each of unit area (slaney)."""
  edges = _mel_to_hz(np.linspace(0, _hz_to_mel(SAMPLE_RATE / 2), NUM_MELS + 2))
  lower, centre, upper = edges[:-2, None], edges[1:-1, None], edges[2:, None]
  hz = np.fft.rfftfreq(_N_FFT, 1 / SAMPLE_RATE)
  rising = (hz - lower) / (centre - lower)
  falling = (upper - hz) / (upper - centre)
  triangles = np.maximum(0, np.minimum(rising, falling))
  return (triangles * 2 / (upper - lower)).astype(np.float32)


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


# Slaney's scale: linear (200/3 Hz a mel) to 1 kHz, then 27 mels per factor 6.4.
_LINEAR, _KNEE, _STEP = 200 / 3, 1000.0, np.log(6.4) / 27


def _hz_to_mel(hz: float) -> float:
  return _KNEE / _LINEAR + np.log(hz / _KNEE) / _STEP


def _mel_to_hz(mel: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
  beyond = np.maximum(mel - _KNEE / _LINEAR, 0)
  return np.minimum(mel * _LINEAR, _KNEE) * np.exp(_STEP * beyond)


@functools.cache
def _window() -> Float[np.ndarray, "1024"]:
  return np.hanning(_N_FFT + 1)[:-1].astype(np.float32)


def _stft(wave: Float[np.ndarray, "b s"]) -> Complex64[np.ndarray, "b t 513"]:
  frames = np.lib.stride_tricks.sliding_window_view(wave, _N_FFT, axis=1)
  return np.fft.rfft(frames[:, ::HOP] * _window(), axis=-1)


def _inverse_stft(
  spectrum: Complex64[np.ndarray, "b t 513"],
) -> Float[np.ndarray, "b s"]:
  """Least-squares overlap-add: s = 256 (t - 1) + 1024."""
  frames = np.fft.irfft(spectrum, axis=-1) * _window()
  weight = np.broadcast_to(_window() ** 2, frames[:1].shape)
  return _overlap_add(frames) / np.maximum(_overlap_add(weight), 1e-8)


def _overlap_add(
  frames: Float[np.ndarray, "b t 1024"],
) -> Float[np.ndarray, "b s"]:
  b, t, _ = frames.shape
  overlap = _N_FFT // HOP
  blocks = frames.reshape(b, t, overlap, HOP)
  result = np.zeros((b, t + overlap - 1, HOP), frames.dtype)
  for shift in range(overlap):
    result[:, shift : shift + t] += blocks[:, :, shift]
  return result.reshape(b, -1)

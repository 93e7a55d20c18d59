"""Our log-mel against diffusers', at both rates."""

import numpy as np
import pytest

from ccl_jax.codecs import mel


def waves(config):
  """Loud noise, quiet noise, a tone in it, silence; some beyond [-1, 1].

  Around a tone in silence, PyTorch's float32 FFT leaves rounding errors of 4e-4
  in the logarithm; ours is exact to 1e-7 there.
  """
  rng = np.random.default_rng(0)
  time = np.arange(config.sample_rate // 4)
  noise = rng.normal(size=(2, len(time))) * [[0.7], [1e-3]]
  tone = 0.5 * np.sin(2 * np.pi * 440 * time / config.sample_rate)
  return np.stack([*noise, noise[1] + tone, 0 * tone]).astype(np.float32)


def front_end(config):
  from diffusers.models.autoencoders import autoencoder_mmaudio

  return autoencoder_mmaudio.MMAudioMelSpectrogram(
    config.sample_rate, config.n_fft, config.num_mels, config.hop
  )


@pytest.mark.parametrize("config", [mel.MEL_16K, mel.MEL_44K], ids=str)
def test_equals_diffusers(config):
  import torch

  wave = waves(config)
  theirs = front_end(config)(torch.from_numpy(wave)).mT.numpy()
  theirs = theirs / np.log(config.base)  # Diffusers' log is always natural.
  ours = mel.log_mel(wave, config)
  assert ours.shape == theirs.shape
  difference = np.abs(ours - theirs).max() / np.abs(theirs).max()
  assert difference < 1e-4


@pytest.mark.parametrize("config", [mel.MEL_16K, mel.MEL_44K], ids=str)
def test_filter_bank_equals_diffusers_and_librosa(config):
  import librosa

  ours = mel.filter_bank(config)
  theirs = front_end(config).mel_basis.numpy()
  assert np.abs(ours - theirs).max() < 1e-4 * theirs.max()
  nyquist = config.sample_rate / 2
  published = librosa.filters.mel(
    sr=config.sample_rate, n_fft=config.n_fft, n_mels=config.num_mels,
    fmin=0, fmax=nyquist,
  )  # fmt: skip
  np.testing.assert_array_equal(ours, published)

"""The audio codec with small random weights, on many kinds of sound."""

import dataclasses

import jax
import numpy as np
import pytest

from ccl_jax.codecs import api, mel
from ccl_jax.codecs.bigvgan import BigVGAN
from ccl_jax.codecs.hashed_text import HashedText
from ccl_jax.codecs.linear import LinearVideoCodec
from ccl_jax.codecs.mmaudio import MMAudioCodec
from ccl_jax.codecs.mmaudio_vae import MMAudioVAE
from ccl_jax.params import nnx_utils
from ccl_jax.params.sharding import Layout, make_mesh
from tests.tiny_codecs import AUDIO, MODELS, VOCODER, write_weights


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  folder = tmp_path_factory.mktemp("weights")
  return tuple(
    write_weights(folder / name, *MODELS[name]) for name in ("audio", "vocoder")
  )


@pytest.fixture(scope="module")
def codec(folders):
  return MMAudioCodec(*folders)


def _noise(samples, rows=2, level=0.1):
  rng = np.random.default_rng(0)
  return (level * rng.normal(size=(rows, samples))).astype(np.float32)


def test_is_an_audio_codec(codec):
  assert isinstance(codec, api.AudioCodec)
  assert (codec.channels, codec.sample_rate, codec.rate) == (4, 16_000, 31.25)
  assert codec.has_logvar


def test_both_ways(codec):
  wave = _noise(16_000)
  mean, logvar = codec.posterior(wave)
  assert mean.shape == logvar.shape == (2, 31, 4)
  np.testing.assert_array_equal(codec.encode(wave), mean)
  assert not np.allclose(mean[0], mean[1], atol=1e-2)
  assert codec.mel(mean).shape == (2, 62, 80)
  sound = codec.decode(mean)
  assert sound.shape == (2, 31 * 512) and sound.dtype == np.float32
  assert np.abs(sound).max() <= 1 and sound.std() > 1e-3


def test_equals_its_parts(codec):
  wave = _noise(5_000)

  @jax.jit
  def encode(params, mel):
    return nnx_utils.bind(MMAudioVAE, AUDIO, params).encode(mel)

  mean, logvar = encode(codec.params, mel.log_mel(wave))
  np.testing.assert_allclose(codec.posterior(wave)[0], mean, atol=1e-5)
  np.testing.assert_allclose(codec.posterior(wave)[1], logvar, atol=1e-5)


def test_scale(codec, folders):
  double = MMAudioCodec(*folders, scale=2.0)
  wave = _noise(5_000)
  mean, logvar = codec.posterior(wave)
  np.testing.assert_allclose(double.posterior(wave)[0], 2 * mean, rtol=1e-5)
  np.testing.assert_allclose(
    double.posterior(wave)[1], logvar + np.log(4), atol=1e-5
  )
  np.testing.assert_allclose(double.mel(2 * mean), codec.mel(mean), atol=1e-5)


def test_silence_and_clipped_sound(codec):
  silence = codec.encode(np.zeros((2, 5_000), np.float32))
  assert np.all(np.isfinite(silence))
  loud = _noise(5_000, level=2.0)
  np.testing.assert_array_equal(
    codec.encode(loud), codec.encode(np.clip(loud, -1, 1))
  )


def test_the_shortest_sound(codec):
  assert codec.encode(_noise(512)).shape == (2, 1, 4)
  assert codec.decode(np.zeros((2, 1, 4), np.float32)).shape == (2, 512)


@pytest.mark.parametrize(
  ("wave", "message"),
  [
    (np.zeros((1, 1), "f"), "one latent takes 512 samples"),
    (np.zeros((1, 511), "f"), "pad with zeros"),
    (np.zeros((1, 4_000, 2), "f"), "expected mono sound"),
    (np.zeros(4_000, "f"), "expected mono sound"),
    (np.zeros((1, 4_000), np.int16), "expected floating samples"),
    (np.full((1, 4_000), np.nan, "f"), "neither NaN nor infinity"),
    (np.full((1, 4_000), np.inf, "f"), "neither NaN nor infinity"),
    (np.full((1, 4_000), 3e4, "f"), "loudest sample is 30000"),
  ],
  ids=["one", "short", "stereo", "flat", "int16", "nan", "inf", "unscaled"],
)
def test_what_is_no_sound_is_one_error(codec, wave, message):
  with pytest.raises(ValueError, match=message):
    codec.encode(wave)


def test_latents_of_another_model_are_an_error(codec):
  with pytest.raises(ValueError, match="expected 4 channels last"):
    codec.decode(np.zeros((1, 3, 20), np.float32))


def test_weights_must_be_of_one_model(folders, tmp_path):
  with pytest.raises(ValueError, match="no vocoder"):
    MMAudioCodec(folders[0]).decode(np.zeros((1, 3, 4), np.float32))
  other = dataclasses.replace(VOCODER, rates=(16, 8), kernels=(32, 16))
  path = write_weights(tmp_path / "vocoder", "bigvgan", BigVGAN, other)
  with pytest.raises(ValueError, match="every 128 samples"):
    MMAudioCodec(folders[0], path).decode(np.zeros((1, 3, 4), np.float32))
  with pytest.raises(ValueError, match=r"\(80, 4\) bins and channels"):
    MMAudioCodec(*folders, sample_rate=16_000, channels=20).encode(_noise(999))
  with pytest.raises(ValueError, match="sample_rate=48000"):
    MMAudioCodec(*folders, sample_rate=48_000, channels=4)


def test_made_without_reading_anything():
  codec = MMAudioCodec("/nowhere", "/nor/here", 44_100, 40)
  assert (codec.channels, codec.sample_rate) == (40, 44_100)
  assert round(codec.rate, 2) == 43.07
  with pytest.raises(ValueError, match="/nowhere"):
    codec.encode(_noise(5_000))


def test_saved_in_a_bundle(codec, tmp_path):
  zeros, ones = np.zeros((768, 2), "f"), np.ones(2, "f")
  video = LinearVideoCodec(zeros[:, 0], zeros, ones)
  saved = api.Codecs(video, codec, HashedText(4, 8))
  saved.save(tmp_path / "codecs")
  again = api.Codecs.load(tmp_path / "codecs")
  assert saved.equals(again)
  wave = _noise(1_000)
  np.testing.assert_array_equal(again.audio.encode(wave), codec.encode(wave))


def test_long_sound_goes_through_one_window(codec, folders):
  """Windows give what one pass gives, for sounds of other lengths too."""
  reach = VOCODER.reach
  assert 2 * reach < 64
  short = MMAudioCodec(*folders, window=64)
  log_mel = np.random.default_rng(0).normal(size=(2, 190, 80)).astype("f")
  whole = codec.vocode(log_mel)
  for frames in (190, 150, 64, 40, 3):
    parts = short.vocode(log_mel[:, :frames])
    assert parts.shape == (2, frames * 256)
    kept = max(0, frames - reach) * 256 if frames < 190 else None
    np.testing.assert_allclose(
      parts[:, :kept], whole[:, : parts.shape[1]][:, :kept], atol=1e-5
    )


def test_rows_over_a_mesh(codec, folders):
  rules = ((".*", (("data", "fsdp"),)),)
  mesh = make_mesh(jax.devices()[:4], data=2, fsdp=2)
  spread = MMAudioCodec(*folders, layout=Layout(mesh, activations=rules))
  wave = _noise(1_100, rows=3)
  mean = spread.encode(wave)
  np.testing.assert_allclose(mean, codec.encode(wave), atol=1e-5)
  assert spread.decode(mean).shape == (3, 1024)

"""Features of speech: their times, their scale, and what cannot be done."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ccl_jax.codecs import wav2vec2
from ccl_jax.codecs.api import AudioCodec, make_codec
from ccl_jax.params.sharding import ONE_DEVICE
from tests import tiny_codecs


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
  folder = tmp_path_factory.mktemp("codec") / "weights"
  weights = tiny_codecs.write_weights(
    folder, "wav2vec2", wav2vec2.Wav2Vec2, tiny_codecs.SPEECH
  )
  return make_codec("wav2vec2", ONE_DEVICE, {"weights": weights})


def noise(num, start=0, size=16_000):
  x = np.zeros((1, size), np.float32)
  x[0, start : start + num] = np.random.default_rng(0).normal(size=num)
  return x


def test_fifty_features_a_second_of_norm_one(codec):
  assert isinstance(codec, AudioCodec)
  found = codec.encode(noise(16_000))
  assert found.shape == (1, 50, 8)
  np.testing.assert_allclose(found.mean(-1), 0, atol=1e-5)
  np.testing.assert_allclose(found.std(-1), 1, atol=1e-3)


def test_a_feature_is_centred_at_its_time():
  """Of what the convolutions see, with 40 zeros on either side."""
  config = dataclasses.replace(tiny_codecs.SPEECH, is_pre_norm=True)
  model = wav2vec2.Features(config, nnx.Rngs(0))
  click, silence = noise(1, start=10 * 320 + 160), noise(0)
  pad = ((0, 0), (40, 40))
  click, silence = (model(jnp.pad(x, pad))[0] for x in (click, silence))
  changed = np.abs(click - silence).max(-1) > 0
  assert click.shape == (50, 6) and np.flatnonzero(changed).tolist() == [10]


def test_loudness_does_not_change_them(codec):
  wave = noise(16_000)
  np.testing.assert_allclose(
    codec.encode(0.01 * wave), codec.encode(wave), atol=1e-2
  )


@pytest.mark.parametrize(
  ("wave", "reason"),
  [
    (np.zeros((1, 300), np.float32), "of 320 samples or more"),
    (np.full((1, 400), np.nan, np.float32), "NaN or infinite"),
  ],
)
def test_sound_that_cannot_be_encoded_is_an_error(codec, wave, reason):
  with pytest.raises(ValueError, match=reason):
    codec.encode(wave)


def test_nothing_is_decoded(codec):
  assert not codec.has_decoder
  with pytest.raises(ValueError, match=r"cannot be decoded.*configs/icac.py"):
    codec.decode(codec.encode(noise(1000)))

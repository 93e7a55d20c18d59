"""Codecs with a net behind: the linear ones' latents, decoded better."""

import jax
import numpy as np
import pytest

from ccl_jax.codecs import conv, linear, mel
from ccl_jax.codecs.api import Codecs
from ccl_jax.codecs.hashed_text import HashedText
from tests.codecs.linear_part import linear_part
from tests.data import clips

STEPS = dict(num_steps=80, batch_size=4)


@pytest.fixture(scope="module")
def videos():
  return [clips.clip(i).video for i in range(16)]


@pytest.fixture(scope="module")
def waves():
  return [clips.clip(i, frames=20).audio for i in range(16)]


@pytest.fixture(scope="module")
def codecs(videos, waves):
  with jax.numpy_dtype_promotion("standard"):  # as optax needs
    return Codecs(
      conv.ConvVideoCodec.fit(videos, 4, **STEPS),
      conv.ConvAudioCodec.fit(waves, 4, **STEPS),
      HashedText(8, 4),
    )


def test_latents_are_those_of_the_linear_codecs(codecs, videos, waves):
  for codec, kind, data in (
    (codecs.video, linear.LinearVideoCodec, videos),
    (codecs.audio, linear.LinearAudioCodec, waves),
  ):
    fitted, latents = kind.fit(data, 4), codec.encode(np.stack(data))
    np.testing.assert_array_equal(latents, fitted.encode(np.stack(data)))
    without = linear_part(codec)
    assert type(without) is kind and linear_part(without) is without
    for name, array in fitted.arrays().items():
      np.testing.assert_array_equal(array, without.arrays()[name])


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_pictures_and_sound_are_closer_than_the_linear(
  codecs, videos, waves, noise
):
  video, wave, rng = np.stack(videos), np.stack(waves), np.random.default_rng(0)

  def errors(codecs):
    z = codecs.video.encode(video)
    z = np.float32(z + noise * rng.normal(size=z.shape))
    pixels = np.float32(codecs.video.decode(z))
    z = codecs.audio.encode(wave)
    z = np.float32(z + noise * rng.normal(size=z.shape))
    wanted = mel.log_mel(wave)
    got = codecs.audio.mel(z)
    return (
      np.square(pixels - video).mean(),
      np.square(got - wanted[:, : got.shape[1]]).mean(),
    )

  base = errors(Codecs(*map(linear_part, codecs[:2]), codecs.text))
  assert np.divide(errors(codecs), base).max() < 0.9


def test_a_stream_is_what_is_decoded_at_once(codecs, videos):
  latents = codecs.video.encode(np.stack(videos))
  pieces = list(codecs.video.stream(latents))
  assert [piece.shape[1] for piece in pieces] == [1, 4]
  decoded = codecs.video.decode(latents)
  np.testing.assert_array_equal(np.concatenate(pieces, 1), decoded)
  first = codecs.video.decode(latents[:, :1])
  np.testing.assert_array_equal(first, decoded[:, :1])


def test_they_come_back_as_they_were(tmp_path, codecs, videos, waves):
  codecs.save(tmp_path / "codecs")
  loaded = Codecs.load(tmp_path / "codecs")
  assert loaded.equals(codecs)
  z = codecs.video.encode(np.stack(videos))
  np.testing.assert_array_equal(loaded.video.decode(z), codecs.video.decode(z))
  z = codecs.audio.encode(np.stack(waves))
  np.testing.assert_array_equal(loaded.audio.mel(z), codecs.audio.mel(z))
  assert loaded.audio.decode(z[:1]).shape == (1, 512 * z.shape[1])


@pytest.mark.usefixtures("standard_promotion")
def test_the_fit_is_the_same_each_time_and_takes_parts_of_large_clips():
  rng = np.random.default_rng(0)
  large = [rng.integers(0, 255, (9, 72, 96, 3), np.uint8) for _ in range(2)]
  one, other = (conv.ConvVideoCodec.fit(large, 4, 2, 4) for _ in range(2))
  for name, array in one.arrays().items():
    np.testing.assert_array_equal(array, other.arrays()[name])
  assert one.decode(np.zeros((1, 2, 9, 12, 4), np.float32)).shape[2:4] == (
    72, 96,
  )  # fmt: skip


@pytest.mark.usefixtures("standard_promotion")
def test_waves_of_several_lengths_and_wrong_sizes(waves):
  mixed = [wave[: len(wave) - 512 * (i % 4)] for i, wave in enumerate(waves)]
  codec = conv.ConvAudioCodec.fit(mixed, 4, 1, 4)
  with pytest.raises(ValueError, match="4 channels"):
    codec.mel(np.zeros((1, 5, 3), np.float32))
  with pytest.raises(ValueError, match="no clips"):
    conv.ConvVideoCodec.fit([])
  with pytest.raises(ValueError, match="have shapes"):
    conv.ConvVideoCodec(**codec.arrays())

"""The codec: bytes, batches, tiles, meshes and errors."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.codecs import converted_weights, wan_video
from ccl_jax.codecs.api import free_weights
from ccl_jax.codecs.wan_video import WanVideoCodec
from ccl_jax.params.sharding import Layout, make_mesh
from tests.codecs.wan_small import SMALL, random_params


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
  path = tmp_path_factory.mktemp("wan") / "weights"
  converted_weights.write(
    path, random_params(), {"settings": dataclasses.asdict(SMALL)}
  )
  return str(path)


def clip(b=2, t=3, y=4, x=8):
  return np.random.default_rng(0).integers(0, 256, (b, t, y, x, 3), np.uint8)


def test_encodes_and_decodes(weights):
  codec = WanVideoCodec(weights)
  mean, logvar = codec.posterior(clip())
  assert mean.shape == logvar.shape == (2, 2, 2, 4, 3)
  np.testing.assert_array_equal(codec.encode(clip()), mean)
  video = codec.decode(mean)
  assert video.dtype == np.uint8 and video.shape == clip().shape
  assert video.std() > 0


def test_a_stream_is_what_is_decoded_at_once(weights):
  """Up to one level of rounding; weights that are freed are read again."""
  latents = np.random.default_rng(0).normal(size=(2, 3, 2, 4, 3))
  latents = latents.astype(np.float32)
  codec = WanVideoCodec(weights)
  pieces = list(codec.stream(latents))
  assert [piece.shape[1] for piece in pieces] == [1, 2, 2]
  whole = codec.decode(latents).astype(int)
  assert np.abs(np.concatenate(pieces, 1) - whole).max() <= 1
  params = codec.params
  free_weights(codec)
  assert codec.params is not params
  np.testing.assert_array_equal(next(codec.stream(latents)), pieces[0])


def test_rows_that_a_mesh_does_not_divide(weights):
  layout = Layout(make_mesh(jax.devices()[:2], fsdp=2))
  latents = WanVideoCodec(weights, layout=layout).encode(clip(b=3, t=1))
  assert len(latents) == 3
  one = WanVideoCodec(weights).encode(clip(b=3, t=1)[2:])
  np.testing.assert_allclose(latents[2:], one, atol=1e-5)


def test_tiles(weights):
  whole = WanVideoCodec(weights)
  tiled = WanVideoCodec(weights, tile=4, overlap=2)
  picture = clip(b=1, t=1)
  latents = tiled.encode(picture)
  assert latents.shape == (1, 1, 2, 4, 3)
  # The first column is of the left tile alone.
  left = whole.encode(picture[..., :4, :])
  np.testing.assert_allclose(latents[..., 0, :], left[..., 0, :], atol=1e-5)
  assert tiled.decode(latents).shape == picture.shape


def test_tiles_of_what_is_local_equal_the_whole():
  x = np.random.default_rng(0).standard_normal((1, 2, 7, 10, 3), np.float32)

  def double(x):
    return x.repeat(2, 2).repeat(2, 3)

  y = wan_video.map_tiles(double, x, tile=4, overlap=2, unit=1, scale=2)
  np.testing.assert_allclose(y, double(x), atol=1e-5)
  back = wan_video.map_tiles(
    lambda x: x[:, :, ::2, ::2], double(x), tile=4, overlap=1, unit=2
  )
  np.testing.assert_allclose(back, x, atol=1e-5)


def test_tiles_blend_linearly():
  """Two tiles that share 4: the left one's weight falls from 7/8 to 1/8."""
  left = iter([np.ones((1, 1, 8, 8, 1)), np.zeros((1, 1, 8, 8, 1))])
  y = wan_video.map_tiles(
    lambda _: next(left), np.zeros((1, 1, 8, 12, 1)), tile=8, overlap=4
  )
  wanted = [1, 1, 1, 1, 7 / 8, 5 / 8, 3 / 8, 1 / 8, 0, 0, 0, 0]
  np.testing.assert_allclose(y[0, 0, 3, :, 0], wanted, atol=1e-6)


@pytest.mark.parametrize("length", [3, 8, 9, 16, 17, 100])
def test_tiles_cover(length):
  begins = wan_video.tile_starts(length, 8, 2)
  assert begins[0] == 0 and begins[-1] == max(length - 8, 0)
  assert all(0 < b - a <= 6 for a, b in itertools.pairwise(begins))


def test_bytes_come_back():
  x = np.arange(256, dtype=np.uint8)
  y = wan_video.from_bytes(jnp.asarray(x))
  assert y.min() == -1 and y.max() == 1
  np.testing.assert_array_equal(wan_video.to_bytes(y), x)


def test_settings_are_the_constructors_arguments(weights):
  codec = WanVideoCodec(weights, tile=4, overlap=2, dtype="float32")
  again = WanVideoCodec(**codec.settings(), **codec.arrays())
  assert again.settings() == codec.settings()
  assert (codec.channels, codec.stride) == (3, (2, 2, 2))


def test_what_does_not_fit_is_refused(weights):
  codec = WanVideoCodec(weights)
  for frames in (0, 2, 4):
    with pytest.raises(ValueError, match=f"{frames=}"):
      codec.encode(clip(t=frames))
  with pytest.raises(ValueError, match="multiples of 2"):
    codec.encode(clip(y=5))
  with pytest.raises(ValueError, match="3 channels"):
    codec.decode(np.zeros((1, 1, 2, 2, 4), np.float32))
  wide = Layout(make_mesh(jax.devices()[:8], fsdp=1, context=8))
  with pytest.raises(ValueError, match="cannot be split 8 ways"):
    WanVideoCodec(weights, layout=wide).encode(clip())
  with pytest.raises(ValueError, match="multiples of 2"):
    WanVideoCodec(weights, tile=9)
  with pytest.raises(ValueError, match="less than"):
    WanVideoCodec(weights, tile=4, overlap=4)

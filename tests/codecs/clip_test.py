"""First frames -> features; for values see tests/parity."""

import dataclasses

import jax
import numpy as np
import pytest

from ccl_jax.codecs import clip, converted_weights
from ccl_jax.params import nnx_utils
from ccl_jax.params.sharding import Layout, make_mesh
from tests.codecs.draw import draw

CONFIG = clip.CLIPVisionConfig(
  image=28, patch=7, width=24, ffn=48, heads=4, layers=4
)
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 30, 50, 3), np.uint8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
  path = tmp_path_factory.mktemp("clip") / "weights"
  about = {"model": "clip", "settings": dataclasses.asdict(CONFIG)}
  converted_weights.write(
    path, draw(nnx_utils.param_shapes(clip.CLIP, CONFIG)), about
  )
  return str(path)


def test_a_mesh_gives_the_same(weights):
  ours = clip.CLIPImageCodec(weights).encode(IMAGES)
  assert ours.shape == (3, 17, 24) and ours.dtype == np.float32
  mesh = make_mesh(jax.devices()[:4], fsdp=2, tensor=2)
  spread = clip.CLIPImageCodec(weights, Layout(mesh))
  np.testing.assert_allclose(
    spread.encode(IMAGES), ours, rtol=1e-3, atol=1e-3 * np.abs(ours).max()
  )
  kernel = spread.params["encoder"]["blocks"]["up"]["kernel"]
  assert kernel.addressable_shards[0].data.shape == (3, 12, 24)


@pytest.mark.parametrize(
  "wrong", [IMAGES[0], IMAGES[:0], IMAGES[..., :1], np.float32(IMAGES)]
)
def test_wrong_images_are_one_error(weights, wrong):
  with pytest.raises(ValueError, match="expected uint8 images"):
    clip.CLIPImageCodec(weights).encode(wrong)


def test_full_size_features():
  s = clip.CLIPVisionConfig()
  images = jax.ShapeDtypeStruct((1, 352, 640, 3), np.uint8)
  features = jax.eval_shape(
    lambda p, x: clip.encode(p, x, config=s),
    nnx_utils.param_shapes(clip.CLIP, s),
    images,
  )
  assert features.shape == (1, 257, 1280)


@pytest.mark.parametrize(("n", "m"), [(28, 28), (5, 12), (40, 7)])
def test_bicubic_keeps_constants_and_is_symmetric(n, m):
  matrix = clip.bicubic_matrix(n, m)
  np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)
  np.testing.assert_allclose(matrix, matrix[::-1, ::-1], atol=1e-6)
  if n == m:
    np.testing.assert_array_equal(matrix, np.eye(n, dtype=np.float32))


def test_settings_are_checked():
  with pytest.raises(ValueError, match="multiple of patch"):
    clip.CLIPVisionConfig(image=30)

"""The vocoder with small random weights: shapes, reach and windows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.codecs import bigvgan
from ccl_jax.codecs.bigvgan import BigVGAN, BigVGANConfig
from ccl_jax.codecs.chunking import map_windows
from ccl_jax.params import nnx_utils, trees

SMALL = BigVGANConfig(
  num_mels=6, width=16, rates=(4, 2), kernels=(8, 4), block_kernels=(3, 5),
  dilations=(2,),
)  # fmt: skip
FRAMES = 6 * SMALL.reach + 5


@pytest.fixture(scope="module")
def params():
  """Random, biases and snakes too, so that all terms show."""
  rng = np.random.default_rng(0)

  def draw(x):
    std = 0.3 if x.ndim == 1 else 1.5 * np.prod(x.shape[:-1]) ** -0.5
    return rng.normal(0, std, x.shape).astype(np.float32)

  return jax.tree.map(draw, nnx_utils.param_shapes(BigVGAN, SMALL))


@jax.jit
def vocode(params, mel, num=None):
  return nnx_utils.bind(BigVGAN, SMALL, params)(mel, num)


def _mel(frames=FRAMES):
  return np.random.default_rng(1).normal(size=(1, frames, 6)).astype("f")


def test_shapes_and_range(params):
  wave = vocode(params, _mel())
  assert wave.shape == (1, FRAMES * SMALL.hop)
  assert wave.dtype == jnp.float32
  assert np.abs(wave).max() <= 1 and np.std(wave) > 0.01


def test_reach_is_how_far_a_frame_is_heard(params):
  mel, middle = _mel(), FRAMES // 2
  other = mel.copy()
  other[:, middle] += 1
  heard = np.flatnonzero(vocode(params, mel) != vocode(params, other))
  heard = heard // SMALL.hop - middle
  assert -SMALL.reach <= heard.min() and heard.max() <= SMALL.reach
  # The outermost taps are too small to be heard among rounding errors.
  assert heard.max() - heard.min() >= 2 * SMALL.reach - 6


def test_windows_are_the_whole_whatever_fills_them_up(params):
  mel, window = _mel(), 3 * SMALL.reach
  nums = []

  def run(x, num):
    x = np.pad(x, ((0, 0), (0, window - x.shape[1]), (0, 0)))
    x[:, num:] = 50
    nums.append(num)
    return np.asarray(vocode(params, x, np.int32(num)))[..., None]

  parts = map_windows(run, mel, window, SMALL.reach, up=SMALL.hop)[..., 0]
  np.testing.assert_allclose(parts, vocode(params, mel), atol=2e-5)
  assert len(nums) > 3 and nums[-1] < window


def test_float32_only(params):
  half = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), params)
  with pytest.raises(ValueError, match="mel are bfloat16: it runs in float32"):
    vocode(params, jnp.asarray(_mel(4), jnp.bfloat16))
  with pytest.raises(ValueError, match="parameters are bfloat16"):
    vocode(half, _mel(4))


def test_settings_are_checked():
  with pytest.raises(ValueError, match="snakebeta"):
    BigVGANConfig(activation="relu")
  with pytest.raises(ValueError, match="expected pairs"):
    BigVGANConfig(rates=(4, 4))


def test_published_sizes():
  assert (bigvgan.BIGVGAN_16K.hop, bigvgan.BIGVGAN_44K.hop) == (256, 512)
  assert (bigvgan.BIGVGAN_16K.reach, bigvgan.BIGVGAN_44K.reach) == (38, 21)
  shapes = nnx_utils.param_shapes(BigVGAN, bigvgan.BIGVGAN_16K)
  assert round(trees.count(shapes) * 4 / 2**20) == 428

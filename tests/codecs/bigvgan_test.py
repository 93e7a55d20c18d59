import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax import trees
from ccl_jax.codecs import bigvgan, modules
from ccl_jax.codecs.bigvgan import BigVGAN, Settings
from ccl_jax.codecs.windows import in_windows

SMALL = Settings(
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

  return jax.tree.map(draw, modules.param_shapes(BigVGAN, SMALL))


@jax.jit
def vocode(params, mel, num=None):
  return modules.bind(BigVGAN, SMALL, params)(mel, num)


def _mel(frames=FRAMES):
  return np.random.default_rng(1).normal(size=(1, frames, 6)).astype("f")


def test_low_pass_is_a_symmetric_half_band():
  h = bigvgan.low_pass()
  np.testing.assert_allclose(h, h[::-1], atol=1e-7)
  np.testing.assert_allclose(h.sum(), 1, atol=1e-6)
  response = np.abs(np.fft.rfft(h, 512))
  assert response[32] > 0.95 and response[224] < 0.05


def test_sine_squared_is_as_exact_as_float32():
  x = np.linspace(-40, 40, 100_001).astype(np.float32)
  error = (
    bigvgan.sine_squared(jnp.asarray(x)) - np.sin(x.astype(np.float64)) ** 2
  )
  assert np.abs(error).max() < 40 * 2.0**-23


@pytest.mark.parametrize("activation", bigvgan.ACTIVATIONS)
@pytest.mark.parametrize("log_scale", [True, False])
def test_activation_of_a_constant_is_the_snake(activation, log_scale):
  settings = Settings(activation=activation, log_scale=log_scale)
  module = bigvgan.Activation(4, settings)
  alpha = np.array([0.1, 0.5, 1.0, 2.0], np.float32)
  beta = alpha[::-1] if activation == "snakebeta" else alpha
  store = np.log if log_scale else np.asarray
  module.alpha.set_value(jnp.asarray(store(alpha)))
  if module.beta is not None:
    module.beta.set_value(jnp.asarray(store(beta)))
  x = np.array([0.3, -1.2, 2.0, 0.7], np.float32)
  y = module(jnp.broadcast_to(x, (1, 5, 4)))
  expected = x + np.sin(alpha * x) ** 2 / beta
  np.testing.assert_allclose(y, np.broadcast_to(expected, y.shape), atol=1e-5)


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

  parts = in_windows(run, mel, window, SMALL.reach, up=SMALL.hop)[..., 0]
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
    Settings(activation="relu")
  with pytest.raises(ValueError, match="expected pairs"):
    Settings(rates=(4, 4))


def test_published_sizes():
  assert (bigvgan.BIGVGAN_16K.hop, bigvgan.BIGVGAN_44K.hop) == (256, 512)
  assert (bigvgan.BIGVGAN_16K.reach, bigvgan.BIGVGAN_44K.reach) == (38, 21)
  shapes = modules.param_shapes(BigVGAN, bigvgan.BIGVGAN_16K)
  assert round(trees.count(shapes) * 4 / 2**20) == 428

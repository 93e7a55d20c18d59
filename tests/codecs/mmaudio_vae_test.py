"""The audio VAE with small random weights: shapes and magnitudes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.codecs import mmaudio_vae
from ccl_jax.codecs.mmaudio_vae import MMAudioVAE, MMAudioVAEConfig
from ccl_jax.params import nnx_utils, trees

SMALL = MMAudioVAEConfig(num_mels=6, channels=3, width=8, num_blocks=1)


@pytest.fixture(scope="module")
def params():
  """Random; kernels have norm 1 for each output, as in the real ones."""
  rng = np.random.default_rng(0)

  def draw(path, x):
    if path in ("mean", "std"):
      return rng.uniform(0.5, 1.5, x.shape).astype("f")
    y = rng.normal(0, 0.3, x.shape).astype("f")
    return y / np.linalg.norm(y, axis=(0, 1)) if x.ndim else y

  shapes = trees.flatten(nnx_utils.param_shapes(MMAudioVAE, SMALL))
  return trees.unflatten({path: draw(path, x) for path, x in shapes.items()})


@jax.jit
def encode(params, mel, num=None):
  return nnx_utils.bind(MMAudioVAE, SMALL, params).encode(mel, num)


@jax.jit
def decode(params, z, num=None):
  return nnx_utils.bind(MMAudioVAE, SMALL, params).decode(z, num)


def _draw(*shape):
  return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def test_shapes_both_ways(params):
  mean, logvar = encode(params, _draw(1, 15, 6))
  assert mean.shape == logvar.shape == (1, 7, 3)  # an odd frame is dropped
  assert decode(params, mean).shape == (1, 14, 6)


def test_steps_that_are_not_there_do_not_matter(params):
  mel, z = _draw(1, 24, 6), _draw(1, 12, 3)
  for run, x, num in ((encode, mel, 15), (decode, z, 7)):
    whole = jax.tree.leaves(run(params, x[:, :num]))
    x = np.where(np.arange(x.shape[1])[:, None] < num, x, 99).astype("f")
    filled = jax.tree.leaves(run(params, x, np.int32(num)))
    for a, b in zip(whole, filled, strict=True):
      np.testing.assert_allclose(b[:, : a.shape[1]], a, atol=1e-5)


def test_bfloat16_is_near_float32(params):
  mel = _draw(1, 15, 6)
  mean, logvar = encode(params, mel)
  low = encode(params, jnp.asarray(mel, jnp.bfloat16))
  assert low[0].dtype == low[1].dtype == jnp.bfloat16
  np.testing.assert_allclose(low[0], mean, atol=0.1)
  np.testing.assert_allclose(low[1], logvar, atol=0.1)


def test_blocks_keep_magnitudes():
  x = jnp.asarray(_draw(1, 400, 32))

  def rms(x):
    return float(jnp.sqrt(jnp.square(x).mean()))

  assert abs(rms(mmaudio_vae.mp_silu(x)) - 1) < 0.05
  other = jnp.asarray(_draw(2, 400, 32)[1:])
  assert abs(rms(mmaudio_vae.mp_sum(x, other)) - 1) < 0.05
  norm = jnp.square(mmaudio_vae.pixel_norm(7 * x)).mean(-1)
  np.testing.assert_allclose(norm, 1, atol=1e-3)


def test_activations_are_clipped(params):
  flat = trees.flatten(params)
  big = {
    path: 1e4 * x if "levels" in path and path.endswith("kernel") else x
    for path, x in flat.items()
  }
  mean, logvar = encode(trees.unflatten(big), _draw(1, 15, 6))
  assert np.all(np.isfinite(mean)) and np.all(np.abs(logvar) <= 30)


def test_published_sizes():
  for config, mebibytes in (
    (mmaudio_vae.MMAUDIO_16K, 655), (mmaudio_vae.MMAUDIO_44K, 1165),
  ):  # fmt: skip
    shapes = nnx_utils.param_shapes(MMAudioVAE, config)
    assert round(trees.count(shapes) * 4 / 2**20) == mebibytes

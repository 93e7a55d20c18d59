"""The kernels of adaptive LayerNorm equal the formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.models import ada_norm
from ccl_jax.params.sharding import ONE_DEVICE, Layout, make_mesh

RULES = (("video/.*", ("data", "context")), (".*", ()))


def draw(b, frames, dtype, f=4, s=48, d=256):
  """Returns x, shift, scale of one or all frames, and a gradient."""
  keys = jax.random.split(jax.random.key(0), 4)
  x = 3 + jax.random.normal(keys[0], (b, f, s, d))
  rows = jax.random.normal(keys[1], (2, b, frames, 1, d))
  g = jax.random.normal(keys[2], x.shape)
  return x.astype(dtype), *rows, g.astype(dtype)


def value_and_gradients(modulate, x, shift, scale, g):
  @jax.jit
  def both(*arrays):
    out, vjp = jax.vjp(modulate, *arrays)
    return out, vjp(g)

  return both(x, shift, scale)


def assert_close(found, wanted, tolerance):
  """Compares each leaf, relative to its largest value."""
  for a, b in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    np.testing.assert_allclose(a, b, atol=tolerance * abs(b).max())


@pytest.mark.parametrize("frames", [1, 4])
@pytest.mark.parametrize(
  ("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 1e-2)]
)
def test_kernels_equal_the_formula(frames, dtype, tolerance):
  arrays = draw(2, frames, dtype)
  kernel = ada_norm.modulator(ONE_DEVICE, "video", interpret=True)
  found = value_and_gradients(kernel, *arrays)
  wanted = value_and_gradients(ada_norm.modulate, *arrays)
  assert_close(found, wanted, tolerance)


@pytest.mark.parametrize("frames", [1, 4])
def test_kernels_on_a_mesh_equal_one_device(frames):
  arrays = draw(2, frames, jnp.float32)
  mesh = make_mesh(jax.devices(), data=2, fsdp=1, context=4)
  layout = Layout(mesh, activations=RULES)
  sharded = ada_norm.modulator(layout, "video", interpret=True)
  found = value_and_gradients(sharded, *arrays)
  wanted = value_and_gradients(ada_norm.modulate, *arrays)
  assert_close(found, wanted, 1e-5)


def test_times_by_token_and_odd_sizes_take_the_formula():
  kernel = ada_norm.modulator(ONE_DEVICE, "video", interpret=True)
  for s in (5, 48):
    x = jnp.ones((1, 2, s, 256))
    rows = jnp.ones((1, 2, s if s == 48 else 1, 256))
    text = str(jax.make_jaxpr(kernel)(x, rows, rows))
    assert "pallas_call" not in text

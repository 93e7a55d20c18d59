"""The kernel of queries and keys equals projection, norm and rotation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ccl_jax.models import layers, qk_rope
from ccl_jax.params.sharding import ONE_DEVICE, Layout, make_mesh

B, D = 2, 256  # two heads of 128 channels
RULES = (("video/.*", ("data", "context")), (".*", ()))


def draw(n, dtype):
  """Returns the parameters, x, angles, and a gradient of the result."""
  keys = jax.random.split(jax.random.key(0), 5)
  projections = layers.AttentionProjections(
    D, D, 128, rngs=nnx.Rngs(0), dtype=dtype
  )
  bias, scale = jax.random.normal(keys[0], (2, D))
  projections.q.bias[...], projections.norm_q.scale[...] = bias, 1 + scale / 4
  x = jax.random.normal(keys[1], (B, n, D)).astype(dtype)
  angles = jax.random.normal(keys[2], (n, 64))
  g = jax.random.normal(keys[3], (B, n, 2, 128)).astype(dtype)
  return nnx.split(projections), x, angles, g


def value_and_gradients(project, graph, params, x, angles, g):
  def run(params, x):
    p = nnx.merge(graph, params)
    return project(p.q, p.norm_q, x, 128, angles)

  @jax.jit
  def both(params, x):
    out, vjp = jax.vjp(run, params, x)
    return {"out": out, "gradients": vjp(g)}

  return both(params, x)


def test_without_angles_nothing_is_rotated():
  (graph, params), x, angles, g = draw(64, jnp.float32)
  kernel = qk_rope.projector(ONE_DEVICE, "video", interpret=True)
  steps = qk_rope.projector(ONE_DEVICE, "video")
  found = value_and_gradients(kernel, graph, params, x, None, g)
  wanted = value_and_gradients(steps, graph, params, x, None, g)
  assert_close(found, wanted, 1e-5)
  rotated = value_and_gradients(steps, graph, params, x, angles, g)
  assert abs(rotated["out"] - wanted["out"]).max() > 0.1


@pytest.mark.parametrize("n", [128, 200])  # full blocks, and one cut off
@pytest.mark.parametrize(
  ("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 2e-2)]
)
def test_kernel_equals_the_separate_steps(n, dtype, tolerance):
  (graph, params), *arrays = draw(n, dtype)
  kernel = qk_rope.projector(ONE_DEVICE, "video", interpret=True)
  steps = qk_rope.projector(ONE_DEVICE, "video")
  assert kernel is not steps
  found = value_and_gradients(kernel, graph, params, *arrays)
  wanted = value_and_gradients(steps, graph, params, *arrays)
  assert_close(found, wanted, tolerance)


def test_kernel_on_a_mesh_equals_one_device():
  (graph, params), *arrays = draw(64, jnp.float32)
  mesh = make_mesh(jax.devices(), data=2, fsdp=1, context=4)
  layout = Layout(mesh, activations=RULES)
  sharded = qk_rope.projector(layout, "video", interpret=True)
  alone = qk_rope.projector(ONE_DEVICE, "video")
  found = value_and_gradients(sharded, graph, params, *arrays)
  wanted = value_and_gradients(alone, graph, params, *arrays)
  assert_close(found, wanted, 1e-5)


def test_split_heads_and_small_ones_take_the_separate_steps():
  mesh = make_mesh(jax.devices(), data=1, fsdp=1, tensor=8)
  rules = (("video/.*", ("data", None, "tensor")), (".*", ()))
  layout = Layout(mesh, activations=rules)
  separate = qk_rope.projector(ONE_DEVICE, "video")
  assert qk_rope.projector(layout, "video", interpret=True) is separate


def assert_close(found, wanted, tolerance):
  """Compares each leaf, relative to its largest value."""
  for a, b in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    np.testing.assert_allclose(a, b, atol=tolerance * abs(b).max())

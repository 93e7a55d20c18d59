"""Modules as functions of nested dicts."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ccl_jax.params import nnx_utils, trees


class Tower(nnx.Module):
  """Layers that do not commute: their order shows."""

  def __init__(self, num: int, *, rngs: nnx.Rngs):
    self.layers = nnx.List([nnx.Linear(2, 2, rngs=rngs) for _ in range(num)])

  def __call__(self, x):
    for layer in self.layers:
      x = layer(x)
    return x


def random_params():
  """Returns parameters of twelve layers."""
  keys = iter(jax.random.split(jax.random.key(0), 24))
  return jax.tree.map(
    lambda x: jax.random.normal(next(keys), x.shape),
    nnx_utils.param_shapes(Tower, 12),
  )


def test_layers_keep_their_order_beyond_ten():
  params = random_params()
  assert set(params["layers"]) == {str(i) for i in range(12)}
  x = expected = jnp.ones((1, 2))
  for i in range(12):
    layer = params["layers"][str(i)]
    expected = expected @ layer["kernel"] + layer["bias"][None]
  y = nnx_utils.bind(Tower, 12, params)(x)
  np.testing.assert_allclose(y, expected, rtol=1e-5)


def test_shapes_are_those_of_parameters():
  shapes = trees.flatten(nnx_utils.param_shapes(Tower, 12))
  state = nnx.to_pure_dict(nnx.split(Tower(12, rngs=nnx.Rngs(0)))[1])
  assert {p: x.shape for p, x in shapes.items()} == {
    p: x.shape for p, x in trees.flatten(state).items()
  }

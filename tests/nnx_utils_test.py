import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ccl_jax import nnx_utils, trees


class Tower(nnx.Module):
  """Layers that do not commute: their order shows."""

  def __init__(self, num: int, *, rngs: nnx.Rngs):
    self.layers = nnx.List([nnx.Linear(2, 2, rngs=rngs) for _ in range(num)])

  def __call__(self, x):
    for layer in self.layers:
      x = layer(x)
    return x


def test_layers_keep_their_order_beyond_ten():
  params = nnx_utils.init_params(Tower, 12, jax.random.key(0))
  assert set(params["layers"]) == {str(i) for i in range(12)}
  x = expected = jnp.ones((1, 2))
  for i in range(12):
    layer = params["layers"][str(i)]
    expected = expected @ layer["kernel"] + layer["bias"]
  y = nnx_utils.bind(Tower, 12, params)(x)
  np.testing.assert_allclose(y, expected, rtol=1e-5)


def test_shapes_are_those_of_parameters():
  shapes = trees.flatten(nnx_utils.param_shapes(Tower, 12))
  params = trees.flatten(nnx_utils.init_params(Tower, 12, jax.random.key(0)))
  assert {p: x.shape for p, x in shapes.items()} == {
    p: x.shape for p, x in params.items()
  }

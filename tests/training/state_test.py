"""What sampling holds of the parameters."""

import jax
import jax.numpy as jnp
import numpy as np

from ccl_jax.models import functional
from ccl_jax.models.plan import sampling_params
from ccl_jax.params import trees
from tests.models import tiny
from tests.training.setups import make_setup


def test_sampling_with_kernels_in_bfloat16_is_the_same_bit_for_bit():
  setup = make_setup(model={"dtype": "bfloat16"})
  shapes = trees.flatten(sampling_params(setup.plan))
  dtypes = {path: str(x.dtype) for path, x in shapes.items()}
  assert dtypes["video/blocks/ffn/up/kernel"] == "bfloat16"
  assert dtypes["fusion/audio/attention/k/kernel"] == "bfloat16"
  for path in ("time/up/kernel", "time_rows/kernel", "blocks/text_norm/scale"):
    assert dtypes[f"video/{path}"] == "float32"
  params = tiny.randomize(setup.plan.shapes)
  halved = jax.tree.map(
    lambda x, s: np.asarray(x, s.dtype), params, trees.unflatten(shapes)
  )
  velocity = jax.jit(functional.velocity, static_argnums=0)
  inputs = tiny.inputs()
  expected, found = (
    velocity(setup.plan.graph, p, *inputs) for p in (params, halved)
  )
  for s, x in expected.items():
    assert jnp.abs(x).max() > 0
    np.testing.assert_array_equal(np.asarray(x), np.asarray(found[s]), s)

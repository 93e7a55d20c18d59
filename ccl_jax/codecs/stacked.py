"""Layers of equal shape as one module, scanned: they are compiled once."""

from collections.abc import Callable

import jax
from flax import nnx

from ccl_jax.array_types import Array
from ccl_jax.sharding import Layout


def scan(
  blocks: nnx.Module,
  x: Array,
  apply: Callable[[nnx.Module, Array], Array],
  *,
  layout: Layout,
  path: str,
  dtype,
) -> Array:
  """x after `apply(block, x)` of every layer in turn.

  Args:
    blocks: from `modules.stack`.
    layout, path: parameters are gathered layer by layer by the rules for
      `path` ("encoder/blocks/").
    dtype: of kernels while they are used.
  """
  graph, params = nnx.split(blocks)

  def layer(x, params):
    block = nnx.merge(graph, layout.gather(params, path, dtype))
    return layout.constrain(apply(block, x), "text"), None

  return jax.lax.scan(layer, x, nnx.to_pure_dict(params))[0]

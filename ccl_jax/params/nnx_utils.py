"""Flax modules as functions of a nested dict of parameters.

`make` is a class of modules that is called as make(config, rngs=..., **options)
with a frozen config and hashable options. The keys of the dict are strings,
also those of lists.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from ccl_jax.array_types import Array, PyTree
from ccl_jax.params import trees
from ccl_jax.params.sharding import ONE_DEVICE, Layout
from ccl_jax.params.weight_gathering import gather

Make = Callable[..., nnx.Module]


def param_shapes(
  make: Make, config: Any, layout: Layout = ONE_DEVICE
) -> PyTree:
  """Returns the parameters' shapes with their shardings; allocates none."""
  state = nnx.to_pure_dict(_abstract_split(make, config)[1])
  return layout.with_shardings(trees.unflatten(trees.flatten(state)))


def bind(make: Make, config: Any, params: PyTree, **options: Any) -> nnx.Module:
  """Returns the module that has these parameters."""
  graph, _ = _abstract_split(make, config, **options)
  return nnx.merge(graph, nnx.restore_int_paths(params))


def stack(make: Callable[[nnx.Rngs], nnx.Module], num: int, rngs: nnx.Rngs):
  """Returns `num` modules as one; its parameters have a leading layer axis."""
  keys = jax.random.split(rngs.params(), num)
  graph = nnx.split(jax.eval_shape(lambda key: make(nnx.Rngs(key)), keys[0]))[0]
  params = jax.vmap(lambda key: nnx.split(make(nnx.Rngs(key)))[1])(keys)
  return nnx.merge(graph, params)


def scan(
  blocks: nnx.Module,
  x: Array,
  apply: Callable[[nnx.Module, Array], Array],
  *,
  layout: Layout,
  path: str,
  dtype,
) -> Array:
  """Returns x after `apply(block, x)` of every layer, compiled once for all.

  Args:
    blocks: from `stack`.
    layout, path: parameters are gathered layer by layer by the rules for
      `path` ("encoder/blocks/").
    dtype: of kernels while they are used.
  """
  graph, params = nnx.split(blocks)

  def layer(x, params):
    block = nnx.merge(graph, gather(layout, params, path, dtype))
    return layout.constrain(apply(block, x), "batch"), None

  return jax.lax.scan(layer, x, nnx.to_pure_dict(params))[0]


@functools.cache
def _abstract_split(make: Make, config: Any, **options: Any) -> tuple[Any, Any]:
  """Returns a module's static half, and its parameters' shapes as a state."""
  return nnx.split(
    jax.eval_shape(lambda: make(config, rngs=nnx.Rngs(0), **options))
  )

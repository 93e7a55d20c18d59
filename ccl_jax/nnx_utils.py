"""Flax modules as functions of a nested dict of parameters.

`make` is a class of modules that is called as make(settings, rngs=...), with
frozen settings; the dict has strings for keys, also those of lists.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from ccl_jax import trees
from ccl_jax.array_types import Array, PyTree
from ccl_jax.sharding import Layout

Make = Callable[..., nnx.Module]


def param_shapes(make: Make, settings: Any) -> PyTree:
  """Shapes and dtypes of the parameters; allocates nothing."""
  return _nested(_abstract(make, settings)[1])


def init_params(make: Make, settings: Any, key: Array) -> PyTree:
  """Random parameters."""
  return _nested(nnx.split(make(settings, rngs=nnx.Rngs(key)))[1])


def bind(make: Make, settings: Any, params: PyTree) -> nnx.Module:
  """The module that has these parameters."""
  graph, _ = _abstract(make, settings)
  return nnx.merge(graph, nnx.restore_int_paths(params))


def stack(make: Callable[[nnx.Rngs], nnx.Module], num: int, rngs: nnx.Rngs):
  """`num` modules as one whose every parameter has a leading layer axis."""
  keys = jax.random.split(rngs.params(), num)
  graph = nnx.split(jax.eval_shape(lambda key: make(nnx.Rngs(key)), keys[0]))[0]
  params = jax.vmap(lambda key: nnx.split(make(nnx.Rngs(key)))[1])(keys)
  return nnx.merge(graph, params)


def describe(
  make: Callable[[], nnx.Module], layout: Layout
) -> tuple[nnx.GraphDef, PyTree]:
  """A module's static half and its parameters' shapes; allocates nothing.

  On a mesh the shapes carry the shardings that the layout's rules give them.
  """

  def split():
    graph, params = nnx.split(make())
    return graph, nnx.to_pure_dict(params)

  graph, shapes = jax.eval_shape(split)
  if layout.mesh is None:
    return graph, shapes
  specs = trees.flatten(layout.param_specs(shapes))
  placed = {
    path: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=layout.sharding(*specs[path])
    )
    for path, x in trees.flatten(shapes).items()
  }
  return graph, trees.unflatten(placed)


@functools.cache
def _abstract(make: Make, settings: Any) -> tuple[Any, Any]:
  return nnx.split(jax.eval_shape(lambda: make(settings, rngs=nnx.Rngs(0))))


def _nested(state: Any) -> PyTree:
  return trees.unflatten(trees.flatten(nnx.to_pure_dict(state)))

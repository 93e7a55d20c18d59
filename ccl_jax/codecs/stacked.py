"""Layers of equal shape as one module, scanned: they are compiled once."""

from collections.abc import Callable

import jax
from flax import nnx

from ccl_jax import trees
from ccl_jax.sharding import Layout
from ccl_jax.types import Array, PyTree


def stack(make: Callable[[nnx.Rngs], nnx.Module], num: int, rngs: nnx.Rngs):
  """`num` modules as one whose every parameter has a leading layer axis."""
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
  """x after `apply(block, x)` of every layer in turn.

  Args:
    blocks: from `stack`.
    layout, path: parameters are gathered layer by layer by the rules for
      `path` ("encoder/blocks/").
    dtype: of kernels while they are used.
  """
  graph, params = nnx.split(blocks)

  def layer(x, params):
    block = nnx.merge(graph, layout.gather(params, path, dtype))
    return layout.constrain(apply(block, x), "text"), None

  return jax.lax.scan(layer, x, nnx.to_pure_dict(params))[0]


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

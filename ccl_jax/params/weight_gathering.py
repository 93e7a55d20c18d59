"""Weights on a mesh: stored sharded, gathered where they are used.

They are gathered layer by layer, in the dtype in which they are used; their
gradients are scattered in reverse:

    forward   w -> cast -> all-gather       backward   reduce-scatter <- dw  (1)

Left to the compiler, weights are gathered nearly twice in the backward pass.

The TPU compiler has no gather over two axes of a torus at once, so there is one
step for each axis, the last axis of a tuple first. `tensor` is not gathered:
products with the weight are split over it. For the rule
(None, (fsdp, data), tensor):

    forward             spec of the weight             backward
    as stored           (None, (fsdp, data), tensor)   reduce-scatter over data
    all-gather, data    (None, (fsdp,), tensor)        reduce-scatter over fsdp
    all-gather, fsdp    (None, None, tensor)           gradient of the product
"""

import functools
from typing import Any

import jax
from jax.sharding import NamedSharding

from ccl_jax.array_types import Array, PyTree
from ccl_jax.params import trees
from ccl_jax.params.param_names import is_kernel, is_stacked
from ccl_jax.params.sharding import Layout, Spec, axes_of


def gather(
  layout: Layout, params: PyTree, prefix: str, cast: Any = None
) -> PyTree:
  """Gathers one layer's parameters, or those outside of the layers (eq. 1).

  Args:
    params: nested dict; leaves lack the layer axis of the stacked ones.
    prefix: path of the dict in the model ("video/blocks/").
    cast: dtype of kernels while they are used.
  """
  leaves = trees.flatten(params)
  if cast is not None:
    leaves = {
      path: x.astype(cast) if is_kernel(path) else x
      for path, x in leaves.items()
    }
  if layout.mesh is None:
    return trees.unflatten(leaves)
  paths = trees.unflatten({prefix + path: 0 for path in leaves})
  specs = layout.match(paths, idle_ok=True)
  gathered = {}
  for path, x in leaves.items():
    spec = specs[prefix + path]
    # The rules are for stacked parameters, x is one layer's.
    spec = spec[1:] if is_stacked(prefix + path) else spec
    steps = tuple(layout.sharding(*step) for step in gather_steps(spec))
    gathered[path] = _gather(steps, x)
  return trees.unflatten(gathered)


def gather_steps(spec: Spec) -> tuple[Spec, ...]:
  """Returns the specs from a parameter's own to one split over `tensor` only.

  These are the rows of the module's table.
  """
  steps = [tuple(spec)]
  for i, entry in enumerate(spec):
    axes = [axis for axis in axes_of(entry) if axis != "tensor"]
    kept = [axis for axis in axes_of(entry) if axis == "tensor"]
    while axes:
      axes.pop()
      last = list(steps[-1])
      last[i] = (*axes, *kept) or None
      steps.append(tuple(last))
  return tuple(steps)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gather(steps: tuple[NamedSharding, ...], x: Array) -> Array:
  for sharding in steps[1:]:
    x = jax.lax.with_sharding_constraint(x, sharding)
  return x


def _gather_forward(steps, x):
  return _gather(steps, x), None


def _scatter(steps, _, gradient):
  for sharding in reversed(steps[:-1]):
    gradient = jax.lax.with_sharding_constraint(gradient, sharding)
  return (gradient,)


_gather.defvjp(_gather_forward, _scatter)

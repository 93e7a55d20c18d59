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
from ccl_jax.types import Array, PyTree

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


@functools.cache
def _abstract(make: Make, settings: Any) -> tuple[Any, Any]:
  return nnx.split(jax.eval_shape(lambda: make(settings, rngs=nnx.Rngs(0))))


def _nested(state: Any) -> PyTree:
  return trees.unflatten(trees.flatten(nnx.to_pure_dict(state)))

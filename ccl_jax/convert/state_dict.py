"""Parameters from the state dict of a file and back, array by array.

One tensor at a time is in memory; stacked layers are written and read row by
row.
"""

import collections
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ccl_jax.array_types import PyTree
from ccl_jax.checkpoints.streaming import StreamedArray
from ccl_jax.convert import matching
from ccl_jax.convert.matching import Assignment
from ccl_jax.convert.rules import Table
from ccl_jax.convert.torch_files import LazyStateDict, describe_quantization
from ccl_jax.params import trees


def streamed_params(
  state_dict: LazyStateDict, table: Table, shapes: PyTree
) -> PyTree:
  """Returns parameters that are read from the file when they are written.

  `streaming.write_arrays` takes them. They keep the dtypes of the file,
  whatever `shapes` say.

  Args:
    state_dict: of the file.
    table: from its names to parameters.
    shapes: nested dict of the model's ShapeDtypeStructs.

  Raises:
    ValueError: file and parameters do not fit, see `matching.match`.
  """
  wanted = trees.flatten(shapes)
  try:
    assignments = matching.match(table, state_dict.shapes, wanted)
  except ValueError as error:
    hint = describe_quantization(state_dict.shapes)
    raise ValueError(f"'{state_dict.origin}': {error}{hint}") from error
  by_path = collections.defaultdict(list)
  for assignment in assignments:
    for path in assignment.ours:
      by_path[path].append(assignment)
  return trees.unflatten(
    {
      path: _streamed(state_dict, path, by_path[path], x.shape)
      for path, x in wanted.items()
    }
  )


def iter_state_dict(
  params: PyTree, table: Table
) -> Iterator[tuple[str, np.ndarray]]:
  """Yields (name, array) of the state dict that holds `params`, one by one.

  Each array keeps the dtype of its parameter; `streamed_params` makes the same
  parameters of them, bit for bit.

  Args:
    params: nested dict of arrays, or of `streaming.LazyArray`.

  Raises:
    ValueError: a parameter without a rule.
  """
  leaves, rows = trees.flatten(params), {}
  for assignment in matching.derive(table, leaves):
    # All rows of a parameter follow one another, from the first.
    if assignment.row == 0:
      rows = {path: _rows(leaves[path]) for path in assignment.ours}
    is_whole = assignment.row is None
    ours = [
      np.asarray(leaves[path] if is_whole else next(rows[path]))
      for path in assignment.ours
    ]
    theirs = assignment.layout.to_theirs(*ours)
    for name, x in zip(assignment.theirs, theirs, strict=True):
      yield name, np.asarray(x, order="C")
    del ours, theirs, x  # before the next arrays are read


def state_dict_shapes(
  params: PyTree, table: Table, dtype: np.dtype
) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns names and shapes of `iter_state_dict`, in order, with one dtype.

  Args:
    params: nested dict of anything with a shape; no array is read.

  Raises:
    ValueError: a parameter without a rule.
  """
  leaves = trees.flatten(params)
  return {
    name: jax.ShapeDtypeStruct(shape, dtype)
    for assignment in matching.derive(table, leaves)
    for name, shape in zip(
      assignment.theirs,
      matching.shapes_of_theirs(assignment, leaves),
      strict=True,
    )
  }


def _rows(x: Any) -> Iterator[Any]:
  return iter(np.asarray(x) if isinstance(x, jax.Array) else x)


def _streamed(
  state_dict: LazyStateDict,
  path: str,
  assignments: list[Assignment],
  shape: tuple[int, ...],
) -> StreamedArray:
  """Returns one parameter; its dtype holds those of all its arrays."""
  dtypes = [state_dict.shapes[n].dtype for a in assignments for n in a.theirs]
  dtype = np.dtype(functools.reduce(jnp.promote_types, dtypes))

  def parts() -> Iterator[tuple[int | None, np.ndarray]]:
    for assignment in assignments:
      theirs = [state_dict.read(name) for name in assignment.theirs]
      ours = assignment.layout.to_ours(*theirs)
      yield assignment.row, ours[assignment.ours.index(path)]

  is_stacked = assignments[0].row is not None
  return StreamedArray(tuple(shape), dtype, parts, is_stacked)

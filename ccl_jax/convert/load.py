"""Parameters out of the arrays of a file, and back, array by array.

Of a file one tensor at a time is in memory. It goes straight to the devices
that hold a part of it; stacked layers are written row by row into the array
that is already there.
"""

import collections
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ccl_jax import trees
from ccl_jax.array_types import Array, PyTree
from ccl_jax.checkpoints.streaming import StreamedArray
from ccl_jax.convert import rules
from ccl_jax.convert.rules import Assignment, Table
from ccl_jax.convert.torch_files import LazyStateDict

_SMALL = 2**26  # bytes of stacked layers that are put together on the host


def load(tensors: LazyStateDict, table: Table, shapes: PyTree) -> PyTree:
  """The parameters, as a nested dict of arrays.

  Args:
    tensors: the file.
    table: its layout.
    shapes: nested dict of ShapeDtypeStructs: the arrays are cast to their
      dtypes and put in their shardings, or on the first device.

  Raises:
    ValueError: file and parameters do not fit, see `rules.match`.
  """
  wanted = trees.flatten(shapes)
  pieces = _by_parameter(tensors, table, wanted)
  return trees.unflatten(
    {p: _make(tensors, p, pieces[p], leaf) for p, leaf in wanted.items()}
  )


def lazy(tensors: LazyStateDict, table: Table, shapes: PyTree) -> PyTree:
  """The parameters for `arrays.write`, made when they are written.

  They keep the dtypes of the file, whatever `shapes` say.

  Raises:
    ValueError: file and parameters do not fit, see `rules.match`.
  """
  wanted = trees.flatten(shapes)
  pieces = _by_parameter(tensors, table, wanted)
  return trees.unflatten(
    {p: _lazy(tensors, p, pieces[p], x.shape) for p, x in wanted.items()}
  )


def dump(params: PyTree, table: Table) -> Iterator[tuple[str, np.ndarray]]:
  """The arrays of a file in their layout, one by one, from parameters.

  Each keeps the dtype of its parameter: `load` makes the same of them, bit for
  bit.

  Args:
    params: nested dict of arrays, or of what is read when it is indexed.

  Raises:
    ValueError: a parameter without a rule.
  """
  leaves = trees.flatten(params)

  @functools.lru_cache(8)
  def on_host(path):
    x = leaves[path]
    return np.asarray(x) if isinstance(x, jax.Array) else x

  for piece in rules.derive(table, leaves):
    parts = [on_host(path) for path in piece.ours]
    if piece.row is not None:
      parts = [x[piece.row] for x in parts]
    arrays = piece.layout.to_theirs(*(np.asarray(x) for x in parts))
    arrays = (np.asarray(x, order="C") for x in arrays)
    yield from zip(piece.theirs, arrays, strict=True)


def dumped_shapes(
  params: PyTree, table: Table, dtype: np.dtype
) -> dict[str, jax.ShapeDtypeStruct]:
  """What `dump` makes, in its order, cast to `dtype`; reads no array.

  Args:
    params: nested dict of what has a shape.

  Raises:
    ValueError: a parameter without a rule.
  """
  leaves = trees.flatten(params)
  return {
    name: jax.ShapeDtypeStruct(shape, dtype)
    for piece in rules.derive(table, leaves)
    for name, shape in zip(
      piece.theirs, rules.shapes_of_theirs(piece, leaves), strict=True
    )
  }


def convert(tensors: LazyStateDict, path: str, piece: Assignment) -> np.ndarray:
  """What a piece makes for one of its parameters, or one row of it."""
  arrays = piece.layout.to_ours(*(tensors.read(n) for n in piece.theirs))
  return arrays[piece.ours.index(path)]


def _by_parameter(
  tensors: LazyStateDict, table: Table, wanted: Mapping[str, Any]
) -> dict[str, list[Assignment]]:
  """Path -> the pieces that fill the parameter."""
  try:
    pieces = rules.match(table, tensors.shapes, wanted)
  except ValueError as error:
    raise ValueError(f"'{tensors.origin}': {error}") from error
  found = collections.defaultdict(list)
  for piece in pieces:
    for path in piece.ours:
      found[path].append(piece)
  return found


def _lazy(
  tensors: LazyStateDict,
  path: str,
  pieces: list[Assignment],
  shape: tuple[int, ...],
) -> StreamedArray:
  names = [name for piece in pieces for name in piece.theirs]
  dtype = functools.reduce(
    jnp.promote_types, (tensors.shapes[name].dtype for name in names)
  )

  def parts():
    return ((p.row, convert(tensors, path, p)) for p in pieces)

  by_row = pieces[0].row is not None
  return StreamedArray(tuple(shape), np.dtype(dtype), parts, by_row)


def _make(
  tensors: LazyStateDict,
  path: str,
  pieces: list[Assignment],
  leaf: jax.ShapeDtypeStruct,
) -> Array:
  """One parameter, on its devices."""
  sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(
    jax.local_devices()[0]
  )
  if pieces[0].row is None:
    return _put(convert(tensors, path, pieces[0]), leaf.dtype, sharding)
  if leaf.size * leaf.dtype.itemsize <= _SMALL:
    rows = np.empty(leaf.shape, leaf.dtype)
    for piece in pieces:
      rows[piece.row] = convert(tensors, path, piece)
    return _put(rows, leaf.dtype, sharding)
  return _stack(tensors, path, pieces, leaf, sharding)


def _stack(
  tensors: LazyStateDict,
  path: str,
  pieces: list[Assignment],
  leaf: jax.ShapeDtypeStruct,
  sharding: jax.sharding.Sharding,
) -> Array:
  """One parameter of stacked layers, written on the devices row by row."""
  whole = jax.jit(
    functools.partial(jnp.zeros, leaf.shape, leaf.dtype), out_shardings=sharding
  )()
  write = jax.jit(
    jax.lax.dynamic_update_index_in_dim,
    static_argnums=3,
    donate_argnums=0,
    out_shardings=sharding,
  )
  row_sharding = _of_rows(sharding)
  for piece in pieces:
    row = _put(convert(tensors, path, piece), leaf.dtype, row_sharding)
    whole = write(whole, row, piece.row, 0)
    whole.block_until_ready()  # Else the rows would wait, all in memory.
  return whole


def _put(
  array: np.ndarray, dtype: np.dtype, sharding: jax.sharding.Sharding
) -> Array:
  """Each device gets its part, cast to `dtype`."""

  def part(index):
    return np.asarray(array[index], dtype, order="C")

  return jax.make_array_from_callback(array.shape, sharding, part)


def _of_rows(sharding: jax.sharding.Sharding) -> jax.sharding.Sharding:
  """The sharding of one row of an array, without the leading axis."""
  if not isinstance(sharding, jax.sharding.NamedSharding):
    return sharding
  spec = jax.sharding.PartitionSpec(*sharding.spec[1:])
  return jax.sharding.NamedSharding(sharding.mesh, spec)

"""Writes arrays that need not fit in memory, in Orbax's format.

Orbax needs all arrays in memory before it writes the first. Here Orbax writes
the folder and its metadata for empty arrays; TensorStore then writes each array
in its place, a row at a time. `orbax_reader` and Orbax itself read the folder.
"""

import dataclasses
import itertools
import json
import math
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore
from etils import epath

from ccl_jax.array_types import PyTree
from ccl_jax.checkpoints import orbax_reader
from ccl_jax.params import trees
from ccl_jax.storage.files import absolute, is_remote, require_space

CHUNK_BYTES = 2**25  # of a chunk that is written, at most
_WRITING_BYTES = 2**27  # in writes that have not finished
READING_BYTES = 2**29  # in reads of chunks that have not finished
WINDOW_BYTES = 2**31  # of rows that are read at once


@dataclasses.dataclass(frozen=True)
class StreamedArray:
  """An array that is computed while it is written.

  Attributes:
    shape, dtype: of the entire array.
    parts: returns an iterator of (row on the leading axis, values of the row),
      or of one pair (None, all values).
    by_row: whether rows are written one by one.
  """

  shape: tuple[int, ...]
  dtype: np.dtype
  parts: Callable[[], Iterator[tuple[int | None, np.ndarray]]]
  by_row: bool = False

  @property
  def size(self) -> int:
    """Returns the number of elements."""
    return math.prod(self.shape)


class LazyArray:
  """An array in a folder: `np.asarray(x)` reads all of it, `iter(x)` its rows.

  Attributes:
    shape, dtype, size: as in a NumPy array.
    chunk_shape: shape of the parts that are stored, and read, as one.
  """

  def __init__(self, name: str, store: tensorstore.TensorStore):
    self._name, self._store = name, store
    self.shape = tuple(store.shape)
    self.dtype = store.dtype.numpy_dtype
    self.size = math.prod(self.shape)
    self.chunk_shape = tuple(store.chunk_layout.read_chunk.shape or ())

  def __array__(self, dtype=None, copy=None) -> np.ndarray:
    if not self.shape:
      return np.asarray(self._result(self._store.read()))
    return self._read(0, self.shape[0])

  def __iter__(self) -> Iterator[np.ndarray]:
    """Yields the rows in order; one window of them is in memory at a time."""
    budget = WINDOW_BYTES // self.dtype.itemsize
    for first, stop in row_windows(self.shape, self.chunk_shape, budget):
      rows = self._read(first, stop)
      yield from rows[:-1]
      # The caller holds this row while the next window is read: as a view it
      # would hold all rows of this one.
      rows = rows[-1:].copy() if len(rows) > 1 else rows
      yield rows[0]
      del rows  # before the next window is read

  def _read(self, first: int, stop: int) -> np.ndarray:
    """Returns the rows `first` to `stop` - 1, read some chunks at a time."""
    rows = np.empty((stop - first, *self.shape[1:]), self.dtype)
    source = self._store[first:stop].translate_to[0]
    chunk_bytes = math.prod(self.chunk_shape) * self.dtype.itemsize
    at_once = max(READING_BYTES // chunk_bytes, 1)
    blocks = _blocks(rows.shape, self.chunk_shape)
    while some := list(itertools.islice(blocks, at_once)):
      reads = [source[block].read() for block in some]
      for block, read in zip(some, reads, strict=True):
        rows[block] = self._result(read)
    return rows

  def _result(self, read: tensorstore.Future) -> np.ndarray:
    try:
      return read.result()
    except Exception as error:  # TensorStore raises many types.
      raise orbax_reader.broken(self._name, error) from error


def row_windows(
  shape: tuple[int, ...], chunk: tuple[int, ...], budget: int
) -> Iterator[tuple[int, int]]:
  """Yields the rows to read at once, (first, last + 1), in order.

  A chunk can only be read as one, and a pod writes chunks with a part of every
  row. So a window has as many rows of one chunk as fit in the budget, and no
  chunk is read once for each of its rows.

  Args:
    shape: of the array; its leading axis counts rows.
    chunk: shape of a chunk; those of the last rows may be cut off.
    budget: elements in a window, at most, unless one row has more.
  """
  num = max(budget // max(math.prod(shape[1:]), 1), 1)
  for start in range(0, shape[0], chunk[0]):
    end = min(start + chunk[0], shape[0])
    for first in range(start, end, num):
      yield first, min(first + num, end)


def write_arrays(folder: pathlib.Path, tree: PyTree) -> None:
  """Writes a tree of arrays to a new local folder, one row or array at a time.

  Arrays of size 0 are left out, see `orbax_reader`.

  Args:
    tree: nested dict of arrays or `StreamedArray`s.

  Raises:
    ValueError: they need more space than the disk has, or the folder's name is
      a pattern.
  """
  orbax_reader.check_path(folder)
  leaves = {path: x for path, x in trees.flatten(tree).items() if x.size}
  needed = sum(x.size * np.dtype(x.dtype).itemsize for x in leaves.values())
  require_space(folder, needed)
  folder = folder.resolve()
  _write_metadata(folder, leaves)
  context = tensorstore.Context()
  stores = {
    path: _create(folder, path, leaf, context) for path, leaf in leaves.items()
  }
  writes, size = [], 0
  try:
    for path, leaf in leaves.items():
      store = stores[path].result()
      for row, part in _parts(leaf):
        target = store if row is None else store[row]
        writes.append(target.write(np.asarray(part, leaf.dtype)))
        size += part.nbytes
        if size > _WRITING_BYTES:
          _finish(writes)
          size = 0
    _finish(writes)
  finally:
    for write in writes:  # After an error: wait until nothing is written.
      write.commit.exception()


def open_arrays(
  folder: epath.PathLike, paths: Iterable[str] | None = None
) -> dict[str, LazyArray]:
  """Returns path -> array of a folder, local or in a bucket; reads none.

  Args:
    paths: of the arrays to open; None opens all.

  Raises:
    BrokenError: the folder cannot be read, or lacks one of the paths.
  """
  paths = list(orbax_reader.read_metadata(folder) if paths is None else paths)
  folder, context = absolute(folder), tensorstore.Context()
  try:
    metadata = json.loads((folder / "_METADATA").read_text())
    driver = "zarr3" if metadata.get("use_zarr3") else "zarr"
    futures = {
      path: tensorstore.open(
        {"driver": driver, **store_spec(folder, path)},
        open=True,
        context=context,
      )
      for path in paths
    }
    stores = {path: each.result() for path, each in futures.items()}
  except Exception as error:  # TensorStore raises many types.
    raise orbax_reader.broken(folder, error) from error
  return {path: LazyArray(f"{folder}: {path}", x) for path, x in stores.items()}


def chunk_shape(
  shape: tuple[int, ...], itemsize: int, by_row: bool
) -> tuple[int, ...]:
  """Returns the shape of a chunk of at most 32 MiB, of one row if `by_row`."""
  chunk = [max(n, 1) for n in shape]
  if by_row:
    chunk[0] = 1
  while math.prod(chunk) * itemsize > CHUNK_BYTES:
    widest = chunk.index(max(chunk))
    chunk[widest] = -(-chunk[widest] // 2)
  return tuple(chunk)


def store_spec(folder: epath.Path, path: str) -> dict[str, Any]:
  """Returns where TensorStore finds an array, under Orbax' name for it."""
  base = f"{folder}/" if is_remote(folder) else f"file://{folder}/"
  return {
    "kvstore": {"driver": "ocdbt", "base": base},
    "path": path.replace("/", "."),
  }


def _write_metadata(folder: pathlib.Path, paths: Iterable[str]) -> None:
  """Makes Orbax' folder of empty arrays, from this process alone."""
  own = jax.process_index()
  alone = ocp.options.MultiprocessingOptions(
    primary_host=own, active_processes={own}
  )
  empty = trees.unflatten({p: np.zeros((), np.int8) for p in paths})
  folder.mkdir()
  # The handler without a Checkpointer around it, which waits for all processes.
  handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
  handler.save(epath.Path(folder), args=ocp.args.PyTreeSave(empty))
  handler.finalize(epath.Path(folder))
  handler.close()


def _create(
  folder: pathlib.Path, path: str, leaf: Any, context: tensorstore.Context
) -> tensorstore.Future:
  """Creates an array in the folder, without values."""
  dtype = np.dtype(leaf.dtype)
  by_row = isinstance(leaf, StreamedArray) and leaf.by_row
  chunks = chunk_shape(leaf.shape, dtype.itemsize, by_row)
  spec = {
    "driver": "zarr",
    **store_spec(epath.Path(folder), path),
    "metadata": {
      "shape": leaf.shape,
      "chunks": chunks,
      "dtype": dtype.name if dtype.kind == "V" else dtype.str,
      "compressor": {"id": "zstd", "level": 1},
    },
    # Else chunks of zeros are not written, which Orbax takes for lost files.
    "store_data_equal_to_fill_value": True,
  }
  return tensorstore.open(
    spec, create=True, delete_existing=True, context=context
  )


def _blocks(
  shape: tuple[int, ...], steps: tuple[int, ...]
) -> Iterator[tuple[slice, ...]]:
  """Yields the indices of an array's blocks, of `steps` along its axes."""
  return itertools.product(
    *(
      [slice(i, min(i + step, n)) for i in range(0, n, step)]
      for n, step in zip(shape, steps, strict=True)
    )
  )


def _finish(writes: list[tensorstore.WriteFutures]) -> None:
  """Waits for writes; TensorStore commits those of one call together."""
  while writes:
    writes.pop().result()


def _parts(leaf: Any) -> Iterator[tuple[int | None, np.ndarray]]:
  if isinstance(leaf, StreamedArray):
    yield from leaf.parts()
  else:
    yield None, np.asarray(leaf)

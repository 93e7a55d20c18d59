"""Named arrays in a folder, as Orbax writes them, but written piece by piece.

Orbax wants all arrays in memory before it writes the first. Here it writes the
folder and its description for empty ones; TensorStore then puts each array in
its place, a row at a time. What reads Orbax reads these folders.
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

from ccl_jax import trees
from ccl_jax.array_types import PyTree
from ccl_jax.files import absolute, is_remote, require_space

_CHUNK_BYTES = 2**25
_WAITING_BYTES = 2**27  # that are on their way to the disk
_READING_BYTES = 2**29  # of chunks that are on their way from it
_ROWS_BYTES = 2**31  # of rows that are read at once


@dataclasses.dataclass(frozen=True)
class StreamedArray:
  """An array that is made while it is written.

  Attributes:
    shape, dtype: of the whole.
    parts: makes pairs of a row on the leading axis, or None for the whole
      array, and what stands there.
    by_row: whether rows are written one by one.
  """

  shape: tuple[int, ...]
  dtype: np.dtype
  parts: Callable[[], Iterator[tuple[int | None, np.ndarray]]]
  by_row: bool = False

  @property
  def size(self) -> int:
    """Number of elements."""
    return math.prod(self.shape)


class LazyArray:
  """An array in a folder; x[i] reads its row i, np.asarray(x) all of it.

  A chunk is read as a whole, and those that a pod writes have a part of every
  row. So where a chunk has several rows as many of them as fit in 2 GiB are
  read at once, some chunks at a time, and kept until the last is asked for.
  """

  def __init__(self, origin: str, store: tensorstore.TensorStore):
    self._origin, self._store = origin, store
    self.shape = tuple(store.shape)
    self.dtype = store.dtype.numpy_dtype
    self.size = math.prod(self.shape)
    self._chunk = store.chunk_layout.read_chunk.shape
    self._first, self._rows = 0, np.empty(0)

  def __array__(self, dtype=None, copy=None) -> np.ndarray:
    if not self.shape:
      return np.asarray(self._result(self._store.read()))
    return self._read(0, self.shape[0])

  def __getitem__(self, row: int) -> np.ndarray:
    if not self._first <= row < self._first + len(self._rows):
      self._rows = np.empty(0)  # Before there are others.
      self._first, stop = self._group(row)
      self._rows = self._read(self._first, stop)
    i = row - self._first
    if i + 1 < len(self._rows):
      return self._rows[i]
    # Rows are asked for in order: the last keeps the others no longer.
    rows, self._rows = self._rows, np.empty(0)
    return rows[i].copy() if i else rows[0]

  def _group(self, row: int) -> tuple[int, int]:
    """First and last + 1 of the rows, all of one chunk, to read with `row`."""
    row_bytes = max(self.size // self.shape[0], 1) * self.dtype.itemsize
    num = max(_ROWS_BYTES // row_bytes, 1)
    start = row - row % self._chunk[0]
    first = row - (row - start) % num
    return first, min(first + num, start + self._chunk[0], self.shape[0])

  def _read(self, first: int, stop: int) -> np.ndarray:
    """Rows `first` to `stop` - 1."""
    rows = np.empty((stop - first, *self.shape[1:]), self.dtype)
    there = self._store[first:stop].translate_to[0]
    blocks = list(_blocks(rows.shape, self._chunk))
    chunk_bytes = math.prod(self._chunk) * self.dtype.itemsize
    at_once = max(_READING_BYTES // chunk_bytes, 1)
    for i in range(0, len(blocks), at_once):
      some = blocks[i : i + at_once]
      reads = [there[block].read() for block in some]
      for block, read in zip(some, reads, strict=True):
        rows[block] = self._result(read)
    return rows

  def _result(self, read: tensorstore.Future) -> np.ndarray:
    try:
      return read.result()
    except Exception as error:  # TensorStore raises what it likes.
      raise _unreadable(self._origin, error) from error


def write(folder: pathlib.Path, tree: PyTree) -> None:
  """Writes a nested dict of arrays, or of `StreamedArray` ones, to a new local folder.

  Raises:
    ValueError: they need more space than the disk has.
  """
  leaves = trees.flatten(tree)
  needed = sum(x.size * np.dtype(x.dtype).itemsize for x in leaves.values())
  require_space(folder, needed)
  folder = folder.resolve()
  _describe(folder, leaves)
  context = tensorstore.Context()
  opened = {
    path: _create(folder, path, leaf, context) for path, leaf in leaves.items()
  }
  waiting, size = [], 0
  try:
    for path, leaf in leaves.items():
      store = opened[path].result()
      for row, part in _parts(leaf):
        place = store if row is None else store[row]
        waiting.append(place.write(np.asarray(part, leaf.dtype)))
        size += part.nbytes
        if size > _WAITING_BYTES:
          _finish(waiting)
          size = 0
    _finish(waiting)
  finally:
    for write in waiting:  # After an error: nobody may write any more.
      write.commit.exception()


def read(folder: epath.PathLike, shapes: PyTree) -> PyTree:
  """The arrays of such a folder, each straight into its sharding.

  Args:
    shapes: nested dict of ShapeDtypeStructs; those without a sharding go to one
      device. Arrays are cast to their dtypes.

  Raises:
    ValueError: the folder cannot be read, or holds arrays of other names or
      shapes.
  """
  wanted = trees.flatten(shapes)
  found = {path: x.shape for path, x in saved(folder).items()}
  expected = {path: tuple(x.shape) for path, x in wanted.items()}
  if found != expected:
    differ = sorted({path for path, _ in found.items() ^ expected.items()})
    lines = [f"{p}: {found.get(p)}, not {expected.get(p)}" for p in differ[:10]]
    raise ValueError(
      f"'{folder}' holds arrays of another model ({len(differ)} differ):"
      f" {'; '.join(lines)}."
    )
  first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  how = {
    path: ocp.ArrayRestoreArgs(
      sharding=x.sharding or first, global_shape=x.shape, dtype=x.dtype
    )
    for path, x in wanted.items()
  }
  arguments = ocp.args.PyTreeRestore(
    item=trees.unflatten(wanted), restore_args=trees.unflatten(how)
  )
  handler = ocp.PyTreeCheckpointHandler()
  try:
    return handler.restore(absolute(folder), args=arguments)
  except Exception as error:  # TensorStore raises what it likes.
    raise _unreadable(folder, error) from error


def saved(folder: epath.PathLike) -> dict[str, Any]:
  """Path -> what has shape and dtype, of the arrays in a folder.

  Raises:
    ValueError: it is no such folder.
  """
  try:
    tree = ocp.PyTreeCheckpointHandler().metadata(absolute(folder)).tree
  except Exception as error:  # Damaged JSON fails in many ways.
    raise _unreadable(folder, error) from error
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf
    for path, leaf in leaves
  }


def stored(
  folder: epath.PathLike, paths: Iterable[str] | None = None
) -> dict[str, LazyArray]:
  """Arrays of a folder, or of a bucket's folder, by path; none is read yet.

  paths: of those to open; None opens all.

  Raises:
    ValueError: it is no such folder, or lacks one of the paths.
  """
  paths = list(saved(folder) if paths is None else paths)
  folder, context = absolute(folder), tensorstore.Context()
  try:
    about = json.loads((folder / "_METADATA").read_text())
    driver = "zarr3" if about.get("use_zarr3") else "zarr"
    opening = {
      path: tensorstore.open(
        {"driver": driver, **_place(folder, path)}, open=True, context=context
      )
      for path in paths
    }
    opened = {path: each.result() for path, each in opening.items()}
  except Exception as error:  # TensorStore raises what it likes.
    raise _unreadable(folder, error) from error
  return {path: LazyArray(f"{folder}: {path}", x) for path, x in opened.items()}


def chunk_shape(
  shape: tuple[int, ...], itemsize: int, by_row: bool
) -> tuple[int, ...]:
  """Of the parts that are stored as one: of at most 32 MiB, in one row."""
  chunk = [max(n, 1) for n in shape]
  if by_row:
    chunk[0] = 1
  while math.prod(chunk) * itemsize > _CHUNK_BYTES:
    widest = chunk.index(max(chunk))
    chunk[widest] = -(-chunk[widest] // 2)
  return tuple(chunk)


def _describe(folder: pathlib.Path, paths: Iterable[str]) -> None:
  """Makes a folder of empty arrays, by this process alone."""
  own = jax.process_index()
  alone = ocp.options.MultiprocessingOptions(
    primary_host=own, active_processes={own}
  )
  empty = trees.unflatten({p: np.zeros((), np.int8) for p in paths})
  folder.mkdir()
  # Without a Checkpointer around it, which waits for all processes.
  handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
  handler.save(epath.Path(folder), args=ocp.args.PyTreeSave(empty))
  handler.finalize(epath.Path(folder))
  handler.close()


def _create(
  folder: pathlib.Path, path: str, leaf: Any, context: tensorstore.Context
) -> tensorstore.Future:
  """The array in the folder's database, under the name that Orbax gives it."""
  dtype = np.dtype(leaf.dtype)
  by_row = isinstance(leaf, StreamedArray) and leaf.by_row
  chunks = chunk_shape(leaf.shape, dtype.itemsize, by_row)
  spec = {
    "driver": "zarr",
    **_place(epath.Path(folder), path),
    "metadata": {
      "shape": leaf.shape,
      "chunks": chunks,
      "dtype": dtype.name if dtype.kind == "V" else dtype.str,
      "compressor": {"id": "zstd", "level": 1},
    },
    # Orbax takes a chunk that is not there for a broken file.
    "store_data_equal_to_fill_value": True,
  }
  return tensorstore.open(
    spec, create=True, delete_existing=True, context=context
  )


def _place(folder: epath.Path, path: str) -> dict[str, Any]:
  """Where TensorStore finds an array: the name that Orbax gives it."""
  base = f"{folder}/" if is_remote(folder) else f"file://{folder}/"
  return {
    "kvstore": {"driver": "ocdbt", "base": base},
    "path": path.replace("/", "."),
  }


def _blocks(
  shape: tuple[int, ...], steps: tuple[int, ...]
) -> Iterator[tuple[slice, ...]]:
  """Parts of an array, of `steps` along its axes."""
  return itertools.product(
    *(
      [slice(i, min(i + step, n)) for i in range(0, n, step)]
      for n, step in zip(shape, steps, strict=True)
    )
  )


def _finish(writes: list[tensorstore.WriteFutures]) -> None:
  """Waits for what is being written; several at once take one commit."""
  while writes:
    writes.pop().result()


def _parts(leaf: Any) -> Iterator[tuple[int | None, np.ndarray]]:
  if isinstance(leaf, StreamedArray):
    yield from leaf.parts()
  else:
    yield None, np.asarray(leaf)


def _unreadable(folder: epath.PathLike, error: Exception) -> ValueError:
  lines = str(error).strip().splitlines() or [type(error).__name__]
  return ValueError(f"'{folder}' cannot be read: {lines[0][:200]}")

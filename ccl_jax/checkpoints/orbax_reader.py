"""Reads arrays from a folder that Orbax or `streaming` has written.

Arrays are read directly into the requested shardings: each host reads the parts
of its own devices, whatever number of devices and hosts has written them.

Orbax does not store arrays of size 0 (see `without_empty`): they are created
from their shapes when the folder is read.
"""

import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from ccl_jax.array_types import PyTree
from ccl_jax.storage import files

_SHOWN = 10  # lines of a difference


class BrokenError(ValueError):
  """A folder of arrays whose files are lost, cut short or unreadable."""


def check_path(folder: epath.PathLike) -> None:
  """Raises ValueError for a folder in which arrays could be lost.

  Orbax finds the files of each process by a pattern, of which the folder's own
  name is a part, and reads an array as absent if it finds none. TensorStore
  takes a path with a question mark for an address.
  """
  if found := set(os.fspath(folder)) & set("*?[\\"):
    raise ValueError(
      f"'{folder}' has {' '.join(sorted(found))} in its path, which Orbax takes"
      " for a pattern, so that arrays get lost: choose another folder for"
      " checkpoints."
    )


def without_empty(tree: PyTree) -> PyTree:
  """Returns the tree with None in place of arrays of size 0."""
  return jax.tree.map(lambda x: x if x.size else None, tree)


def read_metadata(folder: epath.PathLike) -> dict[str, Any]:
  """Returns path -> an object with shape and dtype; reads no array.

  Without those of size 0, which earlier versions of `streaming` wrote.

  Raises:
    BrokenError: the metadata cannot be read, or there are none.
  """
  leaves = flatten(_read_tree_metadata(folder))
  return {path: x for path, x in leaves.items() if 0 not in x.shape}


def read_arrays(
  folder: epath.PathLike, wanted: Mapping[str, jax.ShapeDtypeStruct]
) -> dict[str, jax.Array]:
  """Returns some arrays by path; the others are not read.

  Args:
    wanted: path -> shape, dtype and sharding. An array without a sharding goes
      to one device; all are cast to their dtypes. One of size 0 is made.

  Raises:
    BrokenError: an array cannot be read.
  """
  empty = {path: make_empty(x) for path, x in wanted.items() if not x.size}
  tree = _read_tree_metadata(folder)
  paths, structure = list(flatten(tree)), jax.tree.structure(tree)
  item = [wanted.get(path, ocp.PLACEHOLDER) for path in paths]
  arguments = ocp.args.PyTreeRestore(
    item=structure.unflatten(item),
    restore_args=structure.unflatten([_restore_args(x) for x in item]),
  )
  # The handler without a Checkpointer around it: that has barriers, where a
  # host that can read would wait forever for one that cannot.
  handler = ocp.PyTreeCheckpointHandler()
  try:
    found = handler.restore(files.absolute(folder), args=arguments)
  except Exception as error:  # TensorStore raises many types.
    raise broken(folder, error) from error
  arrays = dict(zip(paths, structure.flatten_up_to(found), strict=True)) | empty
  return {path: arrays[path] for path in wanted}


def read_tree(folder: epath.PathLike, shapes: PyTree) -> PyTree:
  """Returns all arrays of a folder, as the leaves of `shapes`.

  Args:
    shapes: ShapeDtypeStructs, as `read_arrays` takes them.

  Raises:
    ValueError: the folder has other leaves, or some of another shape.
    BrokenError: it cannot be read.
  """
  wanted = flatten(shapes)
  problem = f"'{folder}' holds arrays of another model"
  check_shapes(read_metadata(folder), wanted, problem)
  arrays = read_arrays(folder, wanted)
  return jax.tree.unflatten(jax.tree.structure(shapes), arrays.values())


def check_shapes(
  found: Mapping[str, Any], wanted: Mapping[str, Any], problem: str
) -> None:
  """Raises ValueError with paths of one side only, and shapes that differ.

  Arrays that are wanted and have size 0 are not among those found.
  """
  saved = {path: tuple(x.shape) for path, x in found.items()}
  expected = {path: tuple(x.shape) for path, x in wanted.items() if x.size}
  lines = [f"  only saved: {p} {saved[p]}" for p in saved if p not in expected]
  lines += [
    f"  only expected: {p} {expected[p]}" for p in expected if p not in saved
  ]
  lines += [
    f"  {p}: saved {saved[p]}, expected {expected[p]}"
    for p in saved
    if p in expected and saved[p] != expected[p]
  ]
  if (more := len(lines) - _SHOWN) > 0:
    lines = [*lines[:_SHOWN], f"  and {more} more"]
  if lines:
    raise ValueError("\n".join([f"{problem}:", *lines]))


def make_empty(leaf: jax.ShapeDtypeStruct) -> jax.Array:
  """Returns an array of size 0, the same on every host."""
  zeros = np.zeros(leaf.shape, leaf.dtype)
  return jax.make_array_from_callback(
    leaf.shape, _sharding(leaf), lambda index: zeros[index]
  )


def flatten(tree: PyTree) -> dict[str, Any]:
  """Returns "a/b/0" -> leaf, with fields of named tuples by their name."""
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf
    for path, leaf in jax.tree.leaves_with_path(tree)
  }


def broken(folder: epath.PathLike, error: Exception | str) -> BrokenError:
  """Returns the error for a folder, with the first line of its reason."""
  lines = str(error).strip().splitlines() or [type(error).__name__]
  return BrokenError(f"'{folder}' cannot be read: {lines[0][:200]}")


def _read_tree_metadata(folder: epath.PathLike) -> PyTree:
  """Returns Orbax' metadata of the arrays, in the structure of the tree."""
  handler = ocp.PyTreeCheckpointHandler()
  try:
    return handler.metadata(files.absolute(folder)).tree
  except Exception as error:  # Damaged JSON fails in many ways.
    raise broken(folder, error) from error


def _restore_args(leaf: Any) -> ocp.RestoreArgs:
  if leaf is ocp.PLACEHOLDER:
    return ocp.RestoreArgs()
  return ocp.ArrayRestoreArgs(
    sharding=_sharding(leaf), global_shape=leaf.shape, dtype=leaf.dtype
  )


def _sharding(leaf: jax.ShapeDtypeStruct) -> jax.sharding.Sharding:
  """Returns its sharding, by default on one device."""
  return leaf.sharding or jax.sharding.SingleDeviceSharding(
    jax.local_devices()[0]
  )

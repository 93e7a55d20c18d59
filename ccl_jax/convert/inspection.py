"""A table of the arrays in a checkpoint, and of the sizes of its parts.

No array is read. A checkpoint is a file or folder of PyTorch (see
`torch_files`) or one with such a folder in `transformer`, as exports are, a
workdir of training, the folder of one of its steps, or a folder of converted
weights.
"""

import collections
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from ccl_jax.checkpoints import orbax_reader, restore
from ccl_jax.codecs import converted_weights
from ccl_jax.convert.export import TRANSFORMER
from ccl_jax.convert.torch_files import open_state_dict

_SEPARATOR = re.compile(r"[./]")
_INDEX = re.compile(r"(?<![^./])\d+(?![^./])")  # a number between separators


def report(path: epath.PathLike, list_all: bool = False) -> str:
  """Returns the table as text.

  Args:
    list_all: print a line for each array; else arrays that differ only in
      indices, as those of layers do, share a line.

  Raises:
    ValueError: there is no checkpoint, or it cannot be read.
  """
  shapes, metadata = _read_shapes(path)
  lines = [f"{key}: {value}" for key, value in metadata.items()]
  lines += ["", *_aligned(_grouped(shapes, list_all))]
  lines += ["", *_aligned(_part_sizes(shapes))]
  return "\n".join(lines)


def _read_shapes(
  path: epath.PathLike,
) -> tuple[Mapping[str, Any], dict[str, str]]:
  """Returns (name -> shape and dtype, other metadata) of a checkpoint."""
  path, about = epath.Path(path), {}
  if converted_weights.exists(path):
    metadata = converted_weights.read_metadata(path)
    about = {key: json.dumps(value) for key, value in metadata.items()}
  if (path / "checkpoints").exists():
    found = restore.all_steps(path)
    if not found:
      raise ValueError(f"'{path}/checkpoints' holds no finished checkpoint.")
    about["steps"] = f"{', '.join(map(str, found))}; shown: {found[-1]}"
    path = path / "checkpoints" / str(found[-1])
  for folder in (path, path / restore.ITEM, path / converted_weights.ARRAYS):
    if (folder / "_METADATA").exists():
      return orbax_reader.read_metadata(folder), about
  if (path / TRANSFORMER).is_dir():
    path, about = path / TRANSFORMER, {"shown": TRANSFORMER}
  state_dict = open_state_dict(path)
  # In a file's header they have no order.
  return state_dict.shapes, about | dict(sorted(state_dict.metadata.items()))


def _grouped(
  shapes: Mapping[str, Any], list_all: bool
) -> Iterator[tuple[str, ...]]:
  """Yields (count, name, shape, dtype) of the arrays, or groups of them."""
  groups = collections.defaultdict(list)
  for name, x in shapes.items():
    pattern = name if list_all else _INDEX.sub("*", name)
    groups[pattern, tuple(x.shape), str(x.dtype)].append(name)
  for (pattern, shape, dtype), names in groups.items():
    name = names[0] if len(names) == 1 else pattern
    yield f"{len(names)} x", name, str(shape), dtype


def _part_sizes(shapes: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
  """Yields (part, arrays, numbers, bytes) by the names' first word or two."""
  parts = collections.defaultdict(list)
  for name, x in shapes.items():
    words = _SEPARATOR.split(name)
    depth = 2 if "/" in name else 1
    parts["/".join(words[: min(depth, len(words) - 1)]) or name].append(x)
  yield "part", "arrays", "numbers", "GB"
  for part, found in [*parts.items(), ("all", list(shapes.values()))]:
    size = sum(math.prod(x.shape) for x in found)
    stored = sum(math.prod(x.shape) * x.dtype.itemsize for x in found) / 1e9
    yield part, str(len(found)), f"{size:,}", f"{stored:.3f}"


def _aligned(cells: Iterator[tuple[str, ...]]) -> list[str]:
  """Returns lines whose columns are padded to the same width."""
  rows = list(cells)
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return [
    "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
    for row in rows
  ]

"""What a checkpoint holds, as a table: names, shapes, types, sizes of parts.

Reads no array. A checkpoint is a file or folder of PyTorch (see `sources`), a
workdir of training, one of its steps, or a folder of converted weights.
"""

import collections
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from ccl_jax.checkpoints import restore, streaming
from ccl_jax.codecs import converted_weights
from ccl_jax.convert.torch_files import open_tensors

_NUMBER = re.compile(r"(?<![^./])\d+(?![^./])")
_PARTS = re.compile(r"[./]")


def report(path: epath.PathLike, every: bool = False) -> str:
  """The table.

  Args:
    every: a line for each array; else those that differ in numbers only, as
      layers do, share one.

  Raises:
    ValueError: nothing that could be read.
  """
  shapes, metadata = contents(path)
  lines = [f"{key}: {value}" for key, value in metadata.items()]
  lines += ["", *_rows(_grouped(shapes, every)), "", *_rows(_parts(shapes))]
  return "\n".join(lines)


def contents(path: epath.PathLike) -> tuple[Mapping[str, Any], dict[str, str]]:
  """(name -> what has shape and dtype, what else is known) of a checkpoint.

  Raises:
    ValueError: nothing that could be read.
  """
  path, about = epath.Path(path), {}
  if converted_weights.exists(path):
    about = {k: json.dumps(v) for k, v in converted_weights.about(path).items()}
  if (path / "checkpoints").exists():
    found = restore.steps(path)
    if not found:
      raise ValueError(f"'{path}/checkpoints' holds no finished checkpoint.")
    about["steps"] = f"{', '.join(map(str, found))}; shown is {found[-1]}"
    path = path / "checkpoints" / str(found[-1])
  for folder in (path, path / restore.ITEM, path / converted_weights.ARRAYS):
    if (folder / "_METADATA").exists():
      return streaming.saved(folder), about
  tensors = open_tensors(path)
  return tensors.shapes, tensors.metadata


def _grouped(
  shapes: Mapping[str, Any], every: bool
) -> Iterator[tuple[str, ...]]:
  """(how many, name, shape, dtype) of arrays that are alike."""
  groups = collections.defaultdict(list)
  for name, x in shapes.items():
    alike = name if every else _NUMBER.sub("*", name)
    groups[alike, tuple(x.shape), str(x.dtype)].append(name)
  for (alike, shape, dtype), names in groups.items():
    name = names[0] if len(names) == 1 else alike
    yield f"{len(names)} x", name, str(shape), dtype


def _parts(shapes: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
  """(part, arrays, numbers, bytes) by the first word or two of the names."""
  parts = collections.defaultdict(list)
  for name, x in shapes.items():
    words = _PARTS.split(name)
    depth = 2 if "/" in name else 1
    parts["/".join(words[: min(depth, len(words) - 1)]) or name].append(x)
  yield "part", "arrays", "numbers", "GB"
  for part, found in [*parts.items(), ("all", list(shapes.values()))]:
    size = sum(_size(x) for x in found)
    stored = sum(_size(x) * x.dtype.itemsize for x in found) / 1e9
    yield part, str(len(found)), f"{size:,}", f"{stored:.3f}"


def _size(x: Any) -> int:
  size = 1
  for n in x.shape:
    size *= n
  return size


def _rows(cells: Iterator[tuple[str, ...]]) -> list[str]:
  """Columns of equal width."""
  rows = list(cells)
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return [
    "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
    for row in rows
  ]

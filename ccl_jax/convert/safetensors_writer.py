"""Safetensors files, written one array at a time.

    8 bytes   length of the header, little endian
    header    JSON: name -> dtype, shape, data_offsets; padded with spaces
    data      the arrays in that order, C order, little endian, without gaps

The header needs only shapes, so it is written before the first array is read.
Like diffusers and transformers, more than one shard is written as
STEM-00001-of-0000N.safetensors, with an index of which name is in which file.
"""

import json
import math
import pathlib
from collections.abc import Iterable, Iterator, Mapping

import jax
import numpy as np

from ccl_jax.convert.torch_files import SAFETENSORS_DTYPES
from ccl_jax.storage.files import require_space
from ccl_jax.storage.text_files import write_json

_DTYPE_NAMES = {np.dtype(x): name for name, x in SAFETENSORS_DTYPES.items()}
_METADATA = {"format": "pt"}  # diffusers and transformers require it
_ALIGNMENT = 8

Shapes = Mapping[str, jax.ShapeDtypeStruct]


def write(
  folder: pathlib.Path,
  stem: str,
  shapes: Shapes,
  arrays: Iterable[tuple[str, np.ndarray]],
  shard_size: int | float = math.inf,
  metadata: Mapping[str, str] | None = None,
) -> None:
  """Writes one file, or shards and their index, to a new folder.

  Args:
    stem: the files' name up to the first dash or dot.
    shapes: name -> shape and dtype.
    arrays: (name, array) in the order of `shapes`; they are cast.
    shard_size: most bytes of arrays in a file; a larger array has its own file.
    metadata: texts for the header of each file.

  Raises:
    ValueError: the disk has too little space left, or `arrays` differ from
      `shapes`.
  """
  total = sum(_bytes(x) for x in shapes.values())
  require_space(folder, total)
  folder.mkdir(parents=True)
  shards, arrays = _split(shapes, shard_size), iter(arrays)
  names = [f"{stem}.safetensors"]
  if (num := len(shards)) > 1:
    names = [
      f"{stem}-{i:05}-of-{num:05}.safetensors" for i in range(1, num + 1)
    ]
  weight_map = {}
  for file, shard in zip(names, shards, strict=True):
    _write_file(folder / file, shard, arrays, metadata or {})
    weight_map |= dict.fromkeys(shard, file)
  if num > 1:
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_json(folder / f"{stem}.safetensors.index.json", index)


def _split(shapes: Shapes, shard_size: int | float) -> list[dict]:
  """Returns `shapes` in parts of at most `shard_size` bytes, or one array."""
  shards, size = [{}], 0
  for name, x in shapes.items():
    if shards[-1] and size + _bytes(x) > shard_size:
      shards.append({})
      size = 0
    shards[-1][name] = x
    size += _bytes(x)
  return shards


def _write_file(
  path: pathlib.Path,
  shapes: Shapes,
  arrays: Iterator[tuple[str, np.ndarray]],
  metadata: Mapping[str, str],
) -> None:
  """Writes one file, with the next arrays of the iterator."""
  with path.open("wb") as file:
    file.write(_header(shapes, metadata))
    for name, x in shapes.items():
      got, array = next(arrays, ("nothing", np.empty(0)))
      if got != name or array.shape != x.shape:
        raise ValueError(
          f"got {got} {array.shape} to write, expected {name} {x.shape}."
        )
      array = np.ascontiguousarray(array, x.dtype)
      file.write(array.reshape(-1).view(np.uint8))


def _header(shapes: Shapes, metadata: Mapping[str, str]) -> bytes:
  """Returns the length and the header of a file."""
  described, end = {"__metadata__": {**_METADATA, **metadata}}, 0
  for name, x in shapes.items():
    start, end = end, end + _bytes(x)
    described[name] = {
      "dtype": _DTYPE_NAMES[np.dtype(x.dtype)],
      "shape": list(x.shape),
      "data_offsets": [start, end],
    }
  text = json.dumps(described, separators=(",", ":")).encode()
  text += b" " * (-len(text) % _ALIGNMENT)
  return len(text).to_bytes(8, "little") + text


def _bytes(x: jax.ShapeDtypeStruct) -> int:
  return math.prod(x.shape) * np.dtype(x.dtype).itemsize

"""Weights of a codec in this package's own format: a folder that opens fast.

It holds `arrays/`, the parameters by their paths, and `about.json`, the
metadata: the model's name and settings, the source and the licence. It is made
once from PyTorch's files, by `ccl_jax.convert`; codecs read only such folders.
"""

import functools
import logging
from collections.abc import Mapping
from typing import Any, TypeVar

from etils import epath

from ccl_jax.array_types import PyTree
from ccl_jax.checkpoints import orbax_reader, streaming
from ccl_jax.config import to_tuples
from ccl_jax.storage.files import replacing
from ccl_jax.storage.text_files import read_json, write_json

ARRAYS, _METADATA = "arrays", "about.json"
Config = TypeVar("Config")


def write(
  path: epath.PathLike, params: PyTree, metadata: Mapping[str, Any]
) -> None:
  """Writes the folder; it is complete or absent.

  Args:
    params: nested dict of arrays, or of `streaming.StreamedArray`.
    metadata: plain values: "model", "settings", ..., and a "notice" that is
      logged when the weights are read.

  Raises:
    ValueError: the disk has too little space left.
  """
  with replacing(path) as partial:
    partial.mkdir()
    streaming.write_arrays(partial / ARRAYS, params)
    # Last: in a bucket, where files appear one by one, it marks the folder as
    # complete.
    write_json(partial / _METADATA, dict(metadata))


def exists(path: epath.PathLike) -> bool:
  """Returns whether `path` is a folder of converted weights."""
  return (epath.Path(path) / _METADATA).exists()


def read_metadata(path: epath.PathLike) -> dict[str, Any]:
  """Returns what `write` was called with; ValueError for another folder."""
  file = epath.Path(path) / _METADATA
  if not file.exists():
    raise ValueError(
      f"No {_METADATA} in '{path}': not a folder of converted weights. Make one"
      " by `python -m ccl_jax.convert from-torch`."
    )
  return read_json(file)


def read_config(path: epath.PathLike, make: type[Config]) -> Config:
  """Returns the sizes as its config class; raises as `read_metadata`."""
  return make(**to_tuples(read_metadata(path)["settings"]))


def read(path: epath.PathLike, shapes: PyTree) -> PyTree:
  """Returns the parameters on the devices, and logs the notice.

  Args:
    shapes: nested dict of ShapeDtypeStructs, with shardings or without;
      parameters are cast to their dtypes.

  Raises:
    ValueError: no such folder, a damaged one, or parameters of other names or
      shapes.
  """
  warn_once(read_metadata(path).get("notice", ""))
  return orbax_reader.read_tree(epath.Path(path) / ARRAYS, shapes)


@functools.cache
def warn_once(notice: str) -> None:
  """Logs a notice about the licence, once in a process."""
  if notice:
    logging.warning(notice)

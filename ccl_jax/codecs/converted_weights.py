"""Weights of a codec as this package keeps them: a folder that opens fast.

It holds `arrays/`, the parameters by their paths, and `about.json`: which model
they are of, its settings, where they came from and what they may be used for.
The folder is made from files of PyTorch once, by `ccl_jax.convert`; codecs read
nothing else.
"""

import functools
import json
import logging
from collections.abc import Mapping
from typing import Any

from etils import epath

from ccl_jax.array_types import PyTree
from ccl_jax.checkpoints import streaming
from ccl_jax.files import replacing

ARRAYS, _ABOUT = "arrays", "about.json"


def write(
  path: epath.PathLike, params: PyTree, about: Mapping[str, Any]
) -> None:
  """Makes the folder, whole or not at all.

  Args:
    params: nested dict of arrays, or of `arrays.StreamedArray`.
    about: plain values: "model", "settings", ..., and a "notice" that users
      are told when they open it.

  Raises:
    ValueError: the disk has too little space left.
  """
  with replacing(path) as partial:
    partial.mkdir()
    streaming.write(partial / ARRAYS, params)
    # Last, so that in a bucket too it is there only when all is.
    (partial / _ABOUT).write_text(json.dumps(dict(about), indent=2) + "\n")


def exists(path: epath.PathLike) -> bool:
  """Whether there is such a folder."""
  return (epath.Path(path) / _ABOUT).exists()


def about(path: epath.PathLike) -> dict[str, Any]:
  """What the folder says of itself.

  Raises:
    ValueError: it is no such folder.
  """
  file = epath.Path(path) / _ABOUT
  if not file.exists():
    raise ValueError(
      f"No {_ABOUT} in '{path}': not a folder of converted weights. Make one"
      " by `python -m ccl_jax.convert from-torch`."
    )
  return json.loads(file.read_text())


def read(path: epath.PathLike, shapes: PyTree) -> PyTree:
  """The parameters, cast and put in place as `shapes` say.

  Args:
    shapes: nested dict of ShapeDtypeStructs, with shardings or without.

  Raises:
    ValueError: no such folder, a damaged one, or parameters of other names or
      shapes.
  """
  tell(about(path).get("notice", ""))
  return streaming.read(epath.Path(path) / ARRAYS, shapes)


@functools.cache
def tell(notice: str) -> None:
  """Warns of it once in a process."""
  if notice:
    logging.warning(notice)

"""Wan2.1's weights as a workdir that training starts from.

    config.initial.sources = (("video/.*", DIR),)

reads the video stream from it. It has one checkpoint, of step 0, whose
parameters are those of the video stream; and `about.json`.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from etils import epath

from ccl_jax import arrays, trees
from ccl_jax.convert import rules, wan
from ccl_jax.convert.load import lazy
from ccl_jax.convert.sources import Tensors, open_tensors
from ccl_jax.files import replacing
from ccl_jax.training import restore

ITEM = "default"  # what training.restore calls the arrays of a checkpoint
_FOLDER = "transformer"  # of diffusers' repositories


def from_torch(
  path: epath.PathLike,
  output: epath.PathLike,
  size: str | None = None,
  sizes: Mapping[str, Mapping[str, Any]] = wan.SIZES,
) -> dict[str, Any]:
  """Writes the workdir, tensor by tensor; returns its `about`.

  Args:
    path: a file, a folder of shards, or a folder of diffusers.
    size: one of `sizes`; None lets the file tell.

  Raises:
    ValueError: files that cannot be read or are not of the model, an unknown
      size, or too little space.
  """
  if size is not None and size not in sizes:
    raise ValueError(f"{size=}: expected one of {', '.join(sizes)}.")
  path = pathlib.Path(path)
  tensors = open_tensors(path / _FOLDER if _is_repository(path) else path)
  wan.check_kind(tensors)
  size, layout = _choose(
    tensors, sizes if size is None else {size: sizes[size]}
  )
  shapes = wan.param_shapes(sizes[size])
  params = lazy(tensors, wan.tables(sizes[size])[layout], shapes)
  about = {
    "model": "wan",
    "size": size,
    "settings": dict(sizes[size]),
    "layout": layout,
    "parameters": trees.count(shapes),
    "licence": "Apache-2.0",
    "source": str(path.resolve()),
  }
  with replacing(output) as partial:
    step = partial / "checkpoints" / "0"
    arrays.write(step / ITEM, {"trainable": params})
    restore.record_files(epath.Path(step))
    (partial / "about.json").write_text(json.dumps(about, indent=2) + "\n")
  return about


def _is_repository(path: pathlib.Path) -> bool:
  return (path / _FOLDER).is_dir()


def _choose(
  tensors: Tensors, sizes: Mapping[str, Mapping[str, Any]]
) -> tuple[str, str]:
  """(size, layout) whose names are nearest to the file's."""
  misfits = {
    (size, layout): rules.misfit(
      table, tensors.shapes, trees.flatten(wan.param_shapes(settings))
    )
    for size, settings in sizes.items()
    for layout, table in wan.tables(settings).items()
  }
  return min(misfits, key=misfits.get)

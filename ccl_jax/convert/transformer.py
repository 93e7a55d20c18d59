"""Diffusion transformers of PyTorch as workdirs that training starts from.

    config.init.from_runs = (("video/.*", DIR),)

reads the video stream from DIR, which was made of Wan2.1's files. What was made
of an export of ours has the parameters of that model; and where it came from a
run, the config, clip and codecs of that, which the pipeline starts from.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

from etils import epath

from ccl_jax import trees
from ccl_jax.convert import ccl, export, rules, wan, workdirs
from ccl_jax.convert.load import lazy
from ccl_jax.convert.torch_files import LazyStateDict, local_path, open_tensors
from ccl_jax.files import replacing
from ccl_jax.models import joint

_FOLDER = export.FOLDER  # of diffusers' repositories


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
  path = local_path(path)
  tensors = open_tensors(path / _FOLDER if _is_repository(path) else path)
  wan.check_one_image(tensors)
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
    workdirs.write(partial, 0, params, about)
  return about


def from_export(path: epath.PathLike, output: epath.PathLike) -> dict[str, Any]:
  """Writes the workdir of what `export.to_torch` wrote; returns its `about`.

  Raises:
    ValueError: it is no such folder, or damaged; or too little space.
  """
  path = local_path(path)
  config = export.read_config(path)
  model = {k: v for k, v in config.items() if k not in export.ADDED}
  tensors, shapes = open_tensors(path / _FOLDER), joint.describe(model)[1]
  params = lazy(tensors, ccl.table(model), shapes)
  about = {
    "model": "ccl",
    "settings": model,
    "layout": "ccl",
    "parameters": trees.count(shapes),
    "licence": "see README.md of the source",
    "source": str(path.resolve()),
  }
  with replacing(output) as partial:
    workdirs.copy_kept(path / export.RUN, partial)
    workdirs.write(partial, config["step"], params, about)
  return about


def _is_repository(path: pathlib.Path) -> bool:
  return (path / _FOLDER).is_dir()


def _choose(
  tensors: LazyStateDict, sizes: Mapping[str, Mapping[str, Any]]
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

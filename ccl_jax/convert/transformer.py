"""Converts PyTorch's diffusion transformers to workdirs for training.

    config.init.from_runs = (("video/.*", DIR),)

reads the video stream from DIR, which was made from Wan2.1's or DiT's files. A
workdir made from an export of `to-torch` has all parameters of that model and,
if a run was exported, also its config, clip and codecs, so that the pipeline
can load it.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

from etils import epath

from ccl_jax.array_types import PyTree
from ccl_jax.config import check_choice
from ccl_jax.convert import ccl, dit, export, matching, wan, workdirs
from ccl_jax.convert.state_dict import streamed_params
from ccl_jax.convert.torch_files import (
  local_path,
  open_state_dict,
  without_prefixes,
)
from ccl_jax.models import functional

# Each has the names, sizes and licence of a published video stream.
FAMILIES = {"wan": wan, "dit": dit}
# Expert of Wan2.2-A14B, for high noise or for low -> its folder, of Wan-AI's
# and of diffusers' files.
EXPERTS = {
  "high": ("high_noise_model", "transformer"),
  "low": ("low_noise_model", "transformer_2"),
}


def from_torch(
  path: epath.PathLike,
  output: epath.PathLike,
  size: str | None = None,
  sizes: Mapping[str, Mapping[str, Any]] | None = None,
  expert: str | None = None,
  family: str = "wan",
) -> dict[str, Any]:
  """Writes a workdir from published files; returns its metadata.

  Args:
    path: a file, a folder of shards, or a folder of diffusers.
    size: one of `sizes`; None recognises it from the file.
    sizes: of models; None takes those of the family.
    expert: one of EXPERTS, for folders of Wan2.2-A14B.
    family: one of FAMILIES.

  Raises:
    ValueError: files that cannot be read or are not of the model, an unknown
      size, or too little space.
  """
  model = FAMILIES[family]
  sizes = model.SIZES if sizes is None else sizes
  if size is not None:
    check_choice("size", size, sizes)
  path = local_path(path)
  state_dict = without_prefixes(open_state_dict(_inside(path, expert)))
  if model is wan:
    wan.check(state_dict)
  sizes = sizes if size is None else {size: sizes[size]}
  size, scheme = matching.recognise(
    state_dict.shapes, sizes, model.tables, param_shapes
  )
  table = model.tables(sizes[size])[scheme]
  params = streamed_params(state_dict, table, param_shapes(sizes[size]))
  about = {
    "model": family,
    "size": size,
    "settings": dict(sizes[size]),
    "layout": scheme,
    "licence": model.LICENCE,
    "source": str(path.resolve()),
  }
  return workdirs.make(output, 0, params, about)


def from_export(path: epath.PathLike, output: epath.PathLike) -> dict[str, Any]:
  """Writes a workdir from what `export.to_torch` wrote; returns its metadata.

  Args:
    path: of the folder, or of the file of layout="single".

  Raises:
    ValueError: the folder is not an export, or damaged; or too little space.
  """
  path = local_path(path)
  config = export.read_config(path)
  model = {k: v for k, v in config.items() if k not in export.ADDED_KEYS}
  is_single = path.is_file()
  file = path if is_single else path / export.TRANSFORMER
  state_dict = without_prefixes(open_state_dict(file))
  params = streamed_params(
    state_dict, ccl.table(model, is_single), functional.describe(model)[1]
  )
  about = {
    "model": "ccl",
    "settings": model,
    "layout": "ccl",
    "licence": "see README.md of the source",
    "source": str(path.resolve()),
  }
  folder = path.parent if is_single else path
  return workdirs.make(
    output, config["step"], params, about, folder / export.RUN
  )


def param_shapes(settings: Mapping[str, Any]) -> PyTree:
  """Returns the shapes of the video stream's parameters, under "video"."""
  alone = dict(audio=None, fusion=dict(kind="independent"))
  return functional.describe({**settings, **alone})[1]


def _inside(path: pathlib.Path, expert: str | None) -> pathlib.Path:
  """Returns the folder with the weights, of one expert if there are two."""
  folders = {
    name: next((path / x for x in inside if (path / x).is_dir()), None)
    for name, inside in EXPERTS.items()
  }
  if expert is not None:
    check_choice("expert", expert, EXPERTS)
  if not all(folders.values()):
    if expert is not None:
      raise ValueError(
        f"'{path}' has no two experts, in {EXPERTS['high']} and"
        f" {EXPERTS['low']}: --expert is for the folder of Wan2.2-A14B."
      )
    inside = path / export.TRANSFORMER
    return inside if inside.is_dir() else path
  if expert is None:
    raise ValueError(
      f"'{path}' has two experts, of high and of low noise: choose one by"
      " --expert=high or --expert=low."
    )
  return folders[expert]

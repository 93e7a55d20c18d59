"""Workdirs of training: their parameters, unread, and new ones of parameters.

A workdir that a converter makes has one checkpoint, of parameters alone. What
else it has says what can be done with it: training takes parameters from any
(`config.init.from_runs`), the pipeline runs those with what `_KEPT` names.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from etils import epath

from ccl_jax import files, trees
from ccl_jax.array_types import PyTree
from ccl_jax.checkpoints import manager, restore, streaming
from ccl_jax.models import joint

ABOUT = "about.json"
_KEPT = ("config.json", "clip.json", "codecs")


class Params(NamedTuple):
  """Parameters of a checkpoint.

  Attributes:
    arrays: path -> array, unread.
    step: of the checkpoint.
    averaged: whether any is a moving average.
  """

  arrays: dict[str, streaming.LazyArray]
  step: int
  averaged: bool


@dataclasses.dataclass(frozen=True)
class Run:
  """A workdir, or what a converter made that is like one.

  Attributes:
    config: of the run; for what was not trained here only its "model".
    clip: fps, frames, size; nothing for what was not trained here.
  """

  workdir: epath.Path
  config: Mapping[str, Any]
  clip: Mapping[str, Any]

  @property
  def model(self) -> Mapping[str, Any]:
    """The section of the config."""
    return self.config["model"]

  @functools.cached_property
  def _shapes(self) -> dict[str, Any]:
    return trees.flatten(joint.describe(self.model)[1])

  def params(self, step: int | None = None, average: bool = True) -> Params:
    """Parameters of a checkpoint.

    Args:
      step: of the checkpoint; None takes the newest.
      average: the moving average, where a parameter has one.

    Raises:
      ValueError: no such checkpoint, a broken one, or one of another model.
    """
    folder, step = restore.find(self.workdir, step)
    try:
      full = restore.full_paths(folder, self._shapes, average)
    except restore.BrokenError as error:
      raise ValueError(str(error)) from error
    found = streaming.stored(folder / restore.ITEM, full.values())
    return Params(
      {path: found[full[path]] for path in full},
      step,
      any(path.startswith("ema/") for path in full.values()),
    )


def open_run(workdir: epath.PathLike) -> Run:
  """What a workdir says of itself.

  Raises:
    ValueError: it is no workdir.
  """
  workdir = epath.Path(workdir)
  if (workdir / ABOUT).exists() and not (workdir / "config.json").exists():
    settings = json.loads((workdir / ABOUT).read_text())["settings"]
    alone = {"audio": None, "fusion": {"kind": "independent"}}
    return Run(workdir, {"model": alone | settings}, {})
  config, clip = manager.read_config(workdir), workdir / "clip.json"
  return Run(
    workdir, config, json.loads(clip.read_text()) if clip.exists() else {}
  )


def locate(
  path: epath.PathLike, step: int | None = None
) -> tuple[epath.Path, int | None]:
  """(workdir, step) of a workdir, or of WORKDIR/checkpoints/STEP.

  Raises:
    ValueError: it is the folder of another step than `step`.
  """
  path = epath.Path(path)
  if path.parent.name != "checkpoints" or not path.name.isdigit():
    return path, step
  if step not in (None, int(path.name)):
    raise ValueError(f"'{path}' is not of step {step}: give its workdir.")
  return path.parent.parent, int(path.name)


def write(
  workdir: pathlib.Path, step: int, params: PyTree, about: Mapping[str, Any]
) -> None:
  """Writes a checkpoint of parameters alone, and `about`, to a local folder.

  params: nested dict of arrays, or of `arrays.StreamedArray`.

  Raises:
    ValueError: the disk has too little space left.
  """
  folder = workdir / "checkpoints" / str(step)
  streaming.write(folder / restore.ITEM, {"trainable": params})
  restore.record_files(epath.Path(folder))
  (workdir / ABOUT).write_text(json.dumps(dict(about), indent=2) + "\n")


def copy_kept(source: epath.PathLike, target: pathlib.Path) -> None:
  """Copies what a run has beside its checkpoints, as far as it is there."""
  for name in _KEPT:
    found = epath.Path(source) / name
    if found.is_dir():
      for file in files.sizes(found):
        _copy(found / file, target / name / file)
    elif found.exists():
      _copy(found, target / name)


def _copy(source: epath.Path, target: pathlib.Path) -> None:
  target.parent.mkdir(parents=True, exist_ok=True)
  target.write_bytes(source.read_bytes())

"""Reads parameters of training workdirs, and makes new workdirs.

A workdir that a converter writes has one checkpoint, of parameters alone, and
`about.json`. Training can start from it (`config.init.from_runs`); the pipeline
also needs the files of `RUN_FILES`, which are copied if they exist.
"""

import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from ccl_jax.array_types import PyTree
from ccl_jax.checkpoints import manifest, restore, run_config, streaming
from ccl_jax.config import upgrade
from ccl_jax.models import functional
from ccl_jax.params import lora, trees
from ccl_jax.params.param_names import is_stacked
from ccl_jax.storage import files, text_files

ABOUT = "about.json"
RUN_FILES = ("config.json", "clip.json", "codecs")


class FoldedArray:
  """A parameter with LoRA, in float32, computed row by row when it is read.

  Attributes:
    shape, dtype, size: as in a NumPy array.
  """

  def __init__(self, array: Any, changes: Sequence[lora.Factors | lora.Full]):
    self._array, self._changes = array, changes
    self.shape, self.size = array.shape, array.size
    self.dtype = np.dtype(np.float32)

  def __array__(self, dtype=None, copy=None) -> np.ndarray:
    return _fold(np.asarray(self._array), self._changes)

  def __iter__(self) -> Iterator[np.ndarray]:
    """Yields the rows in order."""
    for row, w in enumerate(self._array):
      yield _fold(np.asarray(w), [_row(c, row) for c in self._changes])


class CheckpointParams(NamedTuple):
  """Parameters of a checkpoint.

  Attributes:
    arrays: path -> array, unread.
    step: of the checkpoint.
    is_ema: whether any is an exponential moving average.
  """

  arrays: dict[str, streaming.LazyArray | FoldedArray | np.ndarray]
  step: int
  is_ema: bool


def fold_lora(
  arrays: Mapping[str, Any], *loras: lora.Changes
) -> dict[str, Any]:
  """Returns unread arrays to which LoRA are added when they are read."""
  folded = {
    path: FoldedArray(arrays[path], changes)
    for path, changes in lora.changes_by_path(loras).items()
  }
  return {**arrays, **folded}


@dataclasses.dataclass(frozen=True)
class Workdir:
  """A workdir of training, or one that a converter has written.

  Attributes:
    path: the folder.
    config: of the run; only its "model" if it was converted from a file.
    clip: fps, frames and size; empty if it was converted from a file.
  """

  path: epath.Path
  config: Mapping[str, Any]
  clip: Mapping[str, Any]

  @property
  def model(self) -> Mapping[str, Any]:
    """Returns the `model` section of the config."""
    return self.config["model"]

  @functools.cached_property
  def _shapes(self) -> dict[str, Any]:
    return trees.flatten(functional.describe(self.model)[1])

  def params(
    self, step: int | str | None = None, ema: bool = True
  ) -> CheckpointParams:
    """Returns the parameters of a checkpoint, without reading them.

    A LoRA is added to its kernels when they are read.

    Args:
      step: of the checkpoint, or "best"; None takes the newest.
      ema: take the moving average of each parameter that has one.

    Raises:
      ValueError: no such checkpoint, a broken one, or one of another model.
    """
    folder, step = restore.find_checkpoint(self.path, step)
    manifest.check(folder)
    factors = restore.lora_shapes(folder, self._shapes)
    paths = restore.state_paths(folder, self._shapes | factors, ema)
    stored = streaming.open_arrays(folder / restore.ITEM, paths.values())
    arrays = {
      path: np.zeros(x.shape, x.dtype)
      for path, x in self._shapes.items()
      if not x.size
    }
    arrays |= {path: stored[name] for path, name in paths.items()}
    if factors:
      leaves = {path: np.asarray(arrays.pop(path)) for path in factors}
      pairs = lora.pairs(leaves, restore.lora_alpha(self.path))
      arrays = fold_lora(arrays, pairs)
    is_ema = any(name.startswith("ema/") for name in paths.values())
    return CheckpointParams(arrays, step, is_ema)


def open_workdir(path: epath.PathLike) -> Workdir:
  """Returns a workdir, config in today's names; ValueError if it is none."""
  path = epath.Path(path)
  if (path / ABOUT).exists() and not (path / "config.json").exists():
    settings = text_files.read_json(path / ABOUT)["settings"]
    video_alone = {"audio": None, "fusion": {"kind": "independent"}}
    return Workdir(path, upgrade({"model": video_alone | settings}), {})
  clip = path / "clip.json"
  about_clip = text_files.read_json(clip) if clip.exists() else {}
  return Workdir(path, run_config.read(path), about_clip)


def split_step(
  path: epath.PathLike, step: int | str | None = None
) -> tuple[epath.Path, int | str | None]:
  """Returns (workdir, step) of a workdir, or of WORKDIR/checkpoints/STEP.

  Raises:
    ValueError: the folder is of another step than `step`.
  """
  path = epath.Path(path)
  if path.parent.name != "checkpoints" or not path.name.isdigit():
    return path, step
  if step not in (None, int(path.name)):
    raise ValueError(f"'{path}' is not of step {step}: pass its workdir.")
  return path.parent.parent, int(path.name)


def write(
  path: pathlib.Path, step: int, params: PyTree, about: Mapping[str, Any]
) -> None:
  """Writes a checkpoint of parameters alone, and `about`, to a local workdir.

  Args:
    params: nested dict of arrays, or of `streaming.StreamedArray`.

  Raises:
    ValueError: the disk has too little space left.
  """
  folder = path / "checkpoints" / str(step)
  streaming.write_arrays(folder / restore.ITEM, {"trainable": params})
  manifest.write(epath.Path(folder))
  text_files.write_json(path / ABOUT, dict(about))


def make(
  output: epath.PathLike,
  step: int,
  params: PyTree,
  about: Mapping[str, Any],
  run_files: epath.PathLike | None = None,
) -> dict[str, Any]:
  """Writes a workdir as `write` does, completely or not at all.

  Args:
    run_files: folder of the files of a run to copy into it.

  Returns:
    `about`, with the number of parameters.
  """
  about = {**about, "parameters": trees.count(params)}
  with files.replacing(output) as partial:
    if run_files is not None:
      copy_run_files(run_files, partial)
    write(partial, step, params, about)
  return about


def copy_run_files(source: epath.PathLike, target: pathlib.Path) -> None:
  """Copies the files of a run beside its checkpoints, those that exist."""
  source = epath.Path(source)
  for name in RUN_FILES:
    found = [name] if (source / name).exists() else []
    if (source / name).is_dir():
      found = [f"{name}/{file}" for file in files.file_sizes(source / name)]
    for file in found:
      (target / file).parent.mkdir(parents=True, exist_ok=True)
      (target / file).write_bytes((source / file).read_bytes())


def streamed(
  path: str, *arrays: Any, join: Callable[..., np.ndarray] = np.asarray
) -> streaming.StreamedArray:
  """Returns unread arrays of a parameter as one to write, row by row.

  join: makes what is written of each array, or of a row of each.
  """
  by_row = is_stacked(path)

  def parts() -> Iterator[tuple[int | None, np.ndarray]]:
    if by_row:
      yield from enumerate(itertools.starmap(join, zip(*arrays, strict=True)))
    else:
      yield None, join(*arrays)

  first = arrays[0]
  return streaming.StreamedArray(first.shape, first.dtype, parts, by_row)


def _fold(
  w: np.ndarray, changes: Sequence[lora.Factors | lora.Full]
) -> np.ndarray:
  """Returns W with what is added to it, in float32."""
  w = lora.blend(w, [c for c in changes if isinstance(c, lora.Full)])
  for change in changes:
    if isinstance(change, lora.Factors):
      w = w + np.float32(change.scale) * (change.a @ change.b)
  return w


def _row(change: lora.Factors | lora.Full, row: int) -> Any:
  """Returns the change of one row of a stacked parameter."""
  if isinstance(change, lora.Full):
    return change._replace(value=change.value[row])
  return change._replace(a=change.a[row], b=change.b[row])

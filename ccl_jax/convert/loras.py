"""Reads the LoRA that --lora names, of runs and of files, and merges them."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from ccl_jax.checkpoints import manifest, orbax_reader, restore
from ccl_jax.convert import lora_reader, workdirs
from ccl_jax.models import functional
from ccl_jax.params import lora, trees
from ccl_jax.params.lora import Factors, Full


def open_lora(text: str, model: Mapping[str, Any]) -> dict[str, Factors | Full]:
  """Returns the LoRA of "PATH" or "PATH:SCALE" for a model.

  PATH is the workdir of a run, a file of others or the folder with it.

  Raises:
    ValueError: the scale is not a finite number; or as `lora_reader.read` and
      `read_run`.
  """
  path, factor = split_scale(text)
  lora.check_scale(f"The scale of --lora={text}", factor)
  if not epath.Path(path).exists():
    raise ValueError(f"--lora={text}: no '{path}'; expected PATH:SCALE.")
  is_run = (epath.Path(path) / "checkpoints").exists()
  changes = (read_run if is_run else lora_reader.read)(path, model)
  return {k: x._replace(scale=factor * x.scale) for k, x in changes.items()}


def split_scale(text: str) -> tuple[str, float]:
  """Returns path and scale of "PATH" or "PATH:SCALE"."""
  path, colon, scale = text.rpartition(":")
  try:
    return (path, float(scale)) if colon else (text, 1.0)
  except ValueError:
    return text, 1.0  # gs://bucket/run


def merge(
  workdir: epath.PathLike,
  texts: Sequence[str],
  output: epath.PathLike,
  step: int | str | None = None,
  ema: bool = True,
) -> dict[str, Any]:
  """Writes a workdir with LoRA added to its parameters; returns its metadata.

  Args:
    texts: each as `open_lora` takes it; they are added.

  Raises:
    ValueError: as `open_lora`; no such checkpoint, or too little space.
  """
  run = workdirs.open_workdir(workdir)
  loras = [open_lora(text, run.model) for text in texts]
  arrays, step, _ = run.params(step, ema)
  arrays = workdirs.fold_lora(arrays, *loras)
  about = {
    "model": "ccl",
    "loras": list(texts),
    "settings": dict(run.model),
    "source": str(workdir),
  }
  params = {path: workdirs.streamed(path, x) for path, x in arrays.items()}
  return workdirs.make(output, step, trees.unflatten(params), about, workdir)


def read_run(
  workdir: epath.PathLike,
  model: Mapping[str, Any],
  step: int | str | None = None,
  ema: bool = True,
) -> dict[str, Factors | Full]:
  """Returns path of a parameter -> how a run with a LoRA has changed it.

  Raises:
    ValueError: no such checkpoint, none with a LoRA, or one of another model.
  """
  folder, step = restore.find_checkpoint(workdir, step)
  shapes = trees.flatten(functional.describe(model)[1])
  manifest.check(folder)
  halves = restore.lora_shapes(folder, shapes)
  saved = orbax_reader.read_metadata(folder / restore.ITEM)
  total = sum(
    p.startswith(("trainable/", "frozen/")) and "/lora/a/" in p for p in saved
  )
  if not halves or 2 * total != len(halves):
    raise ValueError(
      f"'{workdir}' has a LoRA for {total} matrices, {len(halves) // 2} of"
      " which this model has: expected a run of configs/lora.py of the same"
      " model."
    )
  full = {
    path.removeprefix("trainable/"): jax.ShapeDtypeStruct(x.shape, np.float32)
    for path, x in saved.items()
    if path.startswith("trainable/") and not lora.base_of(path)
  }
  wanted = halves | full
  stored = restore.state_paths(folder, wanted, ema)
  arrays = orbax_reader.read_arrays(
    folder / restore.ITEM, {stored[p]: x for p, x in wanted.items()}
  )
  leaves = {p: np.asarray(arrays[stored[p]]) for p in wanted}
  changes = lora.pairs(leaves, restore.lora_alpha(workdir))
  changes |= {p: Full(leaves[p]) for p in full}
  return lora_reader.checked(changes, shapes, str(workdir))

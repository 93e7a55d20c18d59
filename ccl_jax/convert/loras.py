"""LoRA of runs and of files: by the text of --lora, and merged into a run."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from ccl_jax import lora, trees
from ccl_jax.checkpoints import manifest, orbax_reader, restore
from ccl_jax.convert import lora_files, workdirs
from ccl_jax.files import replacing
from ccl_jax.lora import Factors
from ccl_jax.models import functional


def open_lora(text: str, model: Mapping[str, Any]) -> dict[str, Factors]:
  """Returns the LoRA of "PATH" or "PATH:SCALE" for a model.

  PATH is the workdir of a run, a file of others or the folder with it.

  Raises:
    ValueError: the scale is no finite number, or as
      `lora_files.read` and `read_run`.
  """
  path, colon, scale = text.rpartition(":")
  try:
    path, factor = (path, float(scale)) if colon else (text, 1.0)
  except ValueError:
    path, factor = text, 1.0  # gs://bucket/run
  lora.check_scale(f"The scale of --lora={text}", factor)
  if not epath.Path(path).exists():
    raise ValueError(f"--lora={text}: no '{path}'; expected PATH:SCALE.")
  is_run = (epath.Path(path) / "checkpoints").exists()
  factors = (read_run if is_run else lora_files.read)(path, model)
  return {k: x._replace(scale=factor * x.scale) for k, x in factors.items()}


def merge(
  workdir: epath.PathLike,
  texts: Sequence[str],
  output: epath.PathLike,
  step: int | str | None = None,
  ema: bool = True,
) -> dict[str, Any]:
  """Writes a workdir with LoRA added to its kernels; returns its metadata.

  Args:
    texts: each as `open_lora` takes it; they are added.

  Raises:
    ValueError: as `open_lora`; no such checkpoint, or too little space.
  """
  run = workdirs.open_workdir(workdir)
  loras = [open_lora(text, run.model) for text in texts]
  arrays, step, _ = run.params(step, ema)
  for factors in loras:
    arrays = workdirs.fold_lora(arrays, factors)
  about = {
    "model": "ccl",
    "loras": list(texts),
    "settings": dict(run.model),
    "parameters": trees.count(arrays),
    "source": str(workdir),
  }
  params = {path: workdirs.streamed(path, x) for path, x in arrays.items()}
  with replacing(output) as partial:
    workdirs.copy_run_files(workdir, partial)
    workdirs.write(partial, step, trees.unflatten(params), about)
  return about


def read_run(
  workdir: epath.PathLike,
  model: Mapping[str, Any],
  step: int | str | None = None,
  ema: bool = True,
) -> dict[str, Factors]:
  """Returns path of a kernel -> the LoRA that a run has trained for it.

  Raises:
    ValueError: no such checkpoint, none with a LoRA, or one of another model.
  """
  folder, step = restore.find_checkpoint(workdir, step)
  shapes = trees.flatten(functional.describe(model)[1])
  manifest.check(folder)
  wanted = restore.lora_shapes(folder, shapes)
  stored = restore.state_paths(folder, wanted, ema)
  total = [
    p
    for p in orbax_reader.read_metadata(folder / restore.ITEM)
    if p.startswith(("trainable/", "frozen/")) and "/lora/a/" in p
  ]
  if not wanted or 2 * len(total) != len(wanted):
    raise ValueError(
      f"'{workdir}' has a LoRA for {len(total)} matrices,"
      f" {len(wanted) // 2} of which this model has: expected a run of"
      " configs/lora.py of the same model."
    )
  arrays = orbax_reader.read_arrays(
    folder / restore.ITEM, {stored[p]: x for p, x in wanted.items()}
  )
  leaves = {p: np.asarray(arrays[stored[p]]) for p in wanted}
  pairs = lora.pairs(leaves, restore.lora_alpha(workdir))
  return lora_files.checked(pairs, shapes, str(workdir))

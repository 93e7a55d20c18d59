"""Reads checkpoints: onto any mesh, in part, and only if complete.

Orbax writes `checkpoints/STEP.orbax-checkpoint-tmp-N/` and renames it to
`checkpoints/STEP/` when all is written. Its `manifest` reveals damage.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec

from ccl_jax.array_types import PyTree
from ccl_jax.checkpoints import manifest, orbax_reader, run_config
from ccl_jax.checkpoints.manifest import ITEM
from ccl_jax.checkpoints.orbax_reader import BrokenError
from ccl_jax.params import lora, trees
from ccl_jax.storage import text_files

_METRICS = "metrics/metrics"  # Orbax' file of a checkpoint's metrics, JSON
SHARE = "held_out/share/"  # Prefix of metrics where more is better.


def all_steps(workdir: epath.PathLike) -> list[int]:
  """Returns the steps of a run's finished checkpoints, oldest first."""
  names = ocp.path.step.standard_name_format()
  found = names.find_all(epath.Path(workdir) / "checkpoints")
  return sorted(each.step for each in found)


def best_step(workdir: epath.PathLike) -> int:
  """Returns the step of the best checkpoint by `checkpoint.keep_best`.

  The metric is that of the latest checkpoint that has one.

  Raises:
    ValueError: no checkpoint has a metric.
  """
  values = {}
  for step in all_steps(workdir):
    file = epath.Path(workdir) / "checkpoints" / str(step) / _METRICS
    if file.exists():
      values[step] = text_files.read_json(file)
  if not values:
    raise ValueError(
      f"'{workdir}' has no best checkpoint: its run was trained without"
      " checkpoint.keep_best. Name one of the steps"
      f" {all_steps(workdir) or 'none'}."
    )
  (name,) = values[max(values)]
  cost = cost_of(name)
  return min(values, key=lambda step: (cost(values[step]), -step))


def cost_of(name: str) -> Callable[[Mapping[str, float]], float]:
  """Returns a function of a checkpoint's metrics that is lowest for the best.

  It chooses by one metric, a loss or a share. Checkpoints of an earlier start
  may have another; these are ignored.
  """
  sign = -1 if name.startswith(SHARE) else 1
  return lambda metrics: sign * metrics[name] if name in metrics else math.inf


def find_checkpoint(
  workdir: epath.PathLike, step: int | str | None = None
) -> tuple[epath.Path, int]:
  """Returns folder and step of a checkpoint.

  Args:
    step: None takes the latest, "best" that of `best_step`.

  Raises:
    ValueError: the run has no such checkpoint.
  """
  step = best_step(workdir) if step == "best" else step
  found = all_steps(workdir)
  if not found or (step is not None and step not in found):
    raise ValueError(
      f"No checkpoint{'' if step is None else f' of step {step}'} in"
      f" '{workdir}/checkpoints'; it has {found or 'none'}."
    )
  step = found[-1] if step is None else step
  return epath.Path(workdir) / "checkpoints" / str(step), step


def read_params(
  workdir: epath.PathLike,
  shapes: PyTree,
  step: int | str | None = None,
  average: bool = True,
) -> tuple[PyTree, int]:
  """Returns parameters of a run, without the rest of its state, and their step.

  If the run has trained a LoRA for a kernel, the two are returned as one.

  Args:
    shapes: nested dict of ShapeDtypeStructs; those without a sharding go to one
      device. Parameters of the run that it lacks are not read.
    step: of the checkpoint, see `find_checkpoint`.
    average: read the moving average, where a parameter has one.

  Raises:
    ValueError: no such checkpoint, or a broken one; parameters that it lacks or
      has in another shape.
  """
  folder, step = find_checkpoint(workdir, step)
  wanted = trees.flatten(shapes)
  try:
    manifest.check(folder)
    factors = lora_shapes(folder, wanted)
    every = wanted | factors
    paths = {p: p for p in every} | state_paths(folder, every, average)
    arrays = orbax_reader.read_arrays(
      folder / ITEM, {paths[p]: x for p, x in every.items()}
    )
  except BrokenError as error:
    raise ValueError(
      f"{error}. Choose another of the steps {all_steps(workdir)}."
    ) from error
  found = {p: arrays[paths[p]] for p in every}
  if factors:
    found = fold_lora(found, lora.pairs(found, lora_alpha(workdir)))
  return trees.unflatten({p: found[p] for p in wanted}), step


def lora_shapes(
  folder: epath.Path, wanted: Mapping[str, Any]
) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns the shapes of a checkpoint's A and B for some of the parameters.

  Args:
    wanted: path of a parameter -> its shape and sharding.

  Raises:
    BrokenError: the checkpoint cannot be read.
  """
  shapes = {}
  for stored, x in orbax_reader.read_metadata(folder / ITEM).items():
    half, _, path = stored.partition("/")
    base = wanted.get(lora.base_of(path) or path)
    if half in ("trainable", "frozen") and path not in wanted and base:
      mesh = getattr(getattr(base, "sharding", None), "mesh", None)
      everywhere = mesh and NamedSharding(mesh, PartitionSpec())
      shapes[path] = jax.ShapeDtypeStruct(
        x.shape, jax.numpy.float32, sharding=everywhere
      )
  return shapes


def lora_alpha(workdir: epath.PathLike) -> float:
  """Returns alpha of a run that has trained a LoRA."""
  config = run_config.read(workdir)
  return config["lora"].get("alpha", lora.LoRAConfig.alpha)


def fold_lora(
  params: Mapping[str, jax.Array], *loras: lora.Changes
) -> dict[str, jax.Array]:
  """Returns path -> parameter with LoRA added to it, in its dtype.

  The arrays that change are donated.
  """
  folded = dict(params)
  for path, changes in lora.changes_by_path(loras).items():
    x, full = params[path], [c for c in changes if isinstance(c, lora.Full)]
    compile_for = functools.partial(
      jax.jit, donate_argnums=0, out_shardings=x.sharding
    )
    if full:
      x = compile_for(lambda x, f=full: lora.blend(x, f).astype(x.dtype))(x)
    add = compile_for(lora.fold)
    for change in changes:
      if isinstance(change, lora.Factors):
        x = add(x, *change)
    folded[path] = x
  return folded


def initial_params(
  shapes: PyTree,
  from_runs: Sequence[tuple[str, epath.PathLike]],
  fresh: Sequence[str],
) -> dict[str, jax.Array]:
  """Returns path -> parameter of a new model that earlier runs have trained.

  Args:
    shapes: of the new model's parameters, with shardings.
    from_runs: (regex, workdir): parameters whose path matches are read from the
      latest checkpoint there, of its moving average if it has them; the first
      match counts.
    fresh: regexes of the parameters that no run has.

  Raises:
    ValueError: a parameter that no pattern matches, a pattern that matches no
      parameter; and as `read_params`.
  """
  rules = [*from_runs, *((regex, None) for regex in fresh)]
  origin = trees.flatten(trees.match(rules, shapes))
  leaves = trees.flatten(shapes)
  arrays = {}
  for workdir in dict.fromkeys(w for w in origin.values() if w is not None):
    part = {p: x for p, x in leaves.items() if origin[p] == workdir}
    params, _ = read_params(workdir, trees.unflatten(part))
    arrays |= trees.flatten(params)
  return arrays


def state_paths(
  folder: epath.Path, wanted: Mapping[str, Any], average: bool
) -> dict[str, str]:
  """Returns path of a parameter -> its path in the state of a checkpoint.

  Parameters of size 0 have none: they are not stored.

  Args:
    wanted: path of a parameter -> an object with its shape.
    average: take the moving average, where a parameter has one.

  Raises:
    ValueError: a parameter that the checkpoint lacks or has in another shape.
    BrokenError: the checkpoint cannot be read.
  """
  saved, paths = orbax_reader.read_metadata(folder / ITEM), {}
  # Each parameter is trainable or frozen; only trainable ones have an average.
  for half in ("frozen", "trainable", *(["ema"] if average else [])):
    paths |= {p: f"{half}/{p}" for p in wanted if f"{half}/{p}" in saved}
  found = {p: saved[path] for p, path in paths.items()}
  problem = f"'{folder}' lacks parameters of this model"
  orbax_reader.check_shapes(found, wanted, problem)
  return paths

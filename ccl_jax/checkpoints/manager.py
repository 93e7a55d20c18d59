"""The checkpoints of a run, which Orbax saves in its workdir.

A workdir holds `config.json`, `checkpoints/STEP/` and the codecs that made its
latents. The order of the data is a pure function of (seed, step), so a
checkpoint needs no state of the data loader. All processes of a run share one
workdir.
"""

import functools
import logging
import math
from collections.abc import Callable, Iterable

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import preservation_policy

from ccl_jax.array_types import Array, PyTree
from ccl_jax.checkpoints import emergency, manifest, orbax_reader, restore
from ccl_jax.checkpoints.save_timer import SaveTimer
from ccl_jax.processes import distributed
from ccl_jax.storage import files

CHUNK_BYTES = 2**28


class CheckpointManager:
  """Manager of checkpoints of the training state, in the background, by Orbax.

  In a run of several processes all of them must make the same calls. The first
  one makes the folder.

  Args:
    workdir: on disk or in a bucket.
    save_interval_steps: steps between two checkpoints.
    max_to_keep: how many of the latest checkpoints to keep.
    every_minutes: minutes after which a checkpoint is saved in between; 0
      saves by steps alone.
    keep_best: name of a metric; the checkpoint that was saved with the best
      value of it, the lowest loss or the highest share, is kept beside the
      latest; "" for none.
    verify: write the digests of a checkpoint's files, and compare them when it
      is restored; both read it once more.
    emergency_folder: on each host's memory disk, for copies of the state in
      between, see `emergency`; "" for none.
    emergency_every_steps: steps between two copies.

  Raises:
    ValueError: a number that is too small.
  """

  def __init__(
    self,
    workdir: epath.PathLike,
    save_interval_steps: int = 500,
    max_to_keep: int = 3,
    every_minutes: float | int = 0,
    verify: bool = True,
    keep_best: str = "",
    emergency_folder: str = "",
    emergency_every_steps: int = 50,
  ):
    if min(save_interval_steps, max_to_keep, emergency_every_steps) < 1:
      raise ValueError(
        f"checkpoint {save_interval_steps=}, {max_to_keep=},"
        f" {emergency_every_steps=}: expected at least 1."
      )
    self.save_interval_steps, self.keep_best = save_interval_steps, keep_best
    self._timer, self._verify = SaveTimer(every_minutes), verify
    self.workdir = files.absolute(workdir)
    self.folder = self.workdir / "checkpoints"
    for folder in (self.folder, emergency_folder):
      orbax_reader.check_path(folder)
    self._saving_step, self._max_to_keep = 0, max_to_keep
    self._copies_at = (emergency_folder, emergency_every_steps)
    self._copies: emergency.EmergencyManager | None = None

  @functools.cached_property
  def _orbax(self) -> ocp.CheckpointManager:
    policies, cost = [preservation_policy.LatestN(self._max_to_keep)], None
    if self.keep_best:
      cost = restore.cost_of(self.keep_best)
      policies.append(
        preservation_policy.BestN(
          get_metric_fn=cost,
          reverse=True,  # The lowest is the best.
          n=1,
          keep_checkpoints_without_metrics=False,
        )
      )
    return ocp.CheckpointManager(
      self.folder,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=preservation_policy.AnyPreservationPolicy(policies),
        best_fn=cost,  # Without it Orbax writes no metrics.
        best_mode="min",
        cleanup_tmp_directories=True,
        async_options=ocp.AsyncOptions(
          post_finalization_callback=self._write_manifest
        ),
      ),
      handler_registry=manifest.make_registry() if self._verify else None,
    )

  def should_save(self, step: int) -> bool:
    """Returns whether this step is to be saved.

    All processes must ask, after every step.
    """
    return step % self.save_interval_steps == 0 or self._timer.is_due(step)

  def save(self, step: int, state: PyTree, value: float | None = None) -> None:
    """Saves in the background, unless the step is saved already.

    Args:
      value: of the metric `keep_best`; without one it is not the best.

    Raises:
      RuntimeError: Orbax did not save it, as it has one of a later step.
      Exception: the previous save failed in the background.
    """
    if step in self._orbax.all_steps():
      return
    self._timer.restart(step)
    with files.naming_errors(self.folder):
      self._orbax.wait_until_finished()
    self._saving_step = step
    state = orbax_reader.without_empty(state)
    save_args = jax.tree.map(_save_args, state)
    args = ocp.args.StandardSave(state, save_args)
    metrics = None if value is None else {self.keep_best: value}
    if not self._orbax.save(step, args=args, metrics=metrics):
      raise RuntimeError(
        f"Orbax did not save step {step} in '{self.folder}', which has the"
        f" steps {list(self._orbax.all_steps())}."
      )

  def check_mesh(self, make_shapes: Callable[[], PyTree]) -> None:
    """Raises as `emergency.find_mesh`, if copies in memory are enabled."""
    if self._copies_at[0]:
      emergency.find_mesh(make_shapes())

  def should_copy(self, step: int) -> bool:
    """Returns whether the hosts' memory gets a copy of this step's state."""
    folder, every_steps = self._copies_at
    return bool(folder) and step % every_steps == 0

  def copy(self, step: int, state: PyTree) -> None:
    """Copies the state to the hosts' memory, in the background.

    All processes must call it, after `restore_latest`.
    """
    self._copies.save(step, state)

  def restore_latest(self, shapes: PyTree) -> tuple[PyTree, int] | None:
    """Returns the latest readable state and its step; None in a new run.

    That is a copy in the hosts' memory, if it is later than all checkpoints.
    Later checkpoints that cannot be read are named in a warning and moved to
    `checkpoints.broken`.

    Args:
      shapes: ShapeDtypeStructs with shardings, on any mesh.

    Raises:
      ValueError: the checkpoint is of another model, or none can be read.
    """
    steps = sorted(self._orbax.all_steps(), reverse=True)
    if folder := self._copies_at[0]:
      self._copies = emergency.EmergencyManager(folder, self.workdir, shapes)
      found = self._copies.restore_newer(max(steps, default=0))
      if found is not None:
        return found
    reasons: dict[int, str] = {}
    for step in steps:
      state, reason = self._try_read(step, shapes)
      if reason is None:
        self._move_aside(reasons)
        return state, step
      reasons[step] = reason
      logging.warning("%s; trying the one before.", reason)
    if reasons:
      raise ValueError(
        f"No checkpoint in '{self.folder}' can be read: "
        + "; ".join(reasons.values())
      )
    return None

  def best_step(self) -> int | None:
    """Returns the step with the best `keep_best`, None without a value."""
    return self._orbax.best_step()

  def close(self) -> None:
    """Waits for a save that is not finished; raises its error, if any."""
    with files.naming_errors(self.folder):
      self._orbax.close()
    if self._copies:
      self._copies.close()

  def _try_read(self, step: int, shapes: PyTree) -> tuple[PyTree, str | None]:
    """Returns (state, None), or (None, why some process cannot read it)."""
    state, reason = None, None
    try:
      manifest.check(self.folder / str(step), self._verify)
      item = self.folder / str(step) / manifest.ITEM
      state = orbax_reader.read_tree(item, shapes)
    except orbax_reader.BrokenError as error:
      reason = str(error)
    if not distributed.all_agree(reason is None):
      state = None
      reason = reason or f"Another process cannot read step {step}"
    return state, reason

  def _move_aside(self, broken: Iterable[int]) -> None:
    """Moves broken checkpoints away, so that their steps can be saved again."""
    if distributed.is_lead():
      for step in broken:
        target = self.workdir / "checkpoints.broken" / str(step)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.rmtree(missing_ok=True)
        (self.folder / str(step)).rename(target)
    distributed.barrier("broken checkpoints moved")
    self._orbax.reload()

  def _write_manifest(self) -> None:
    # Orbax calls this on one process, when all is written and before it renames
    # the temporary folder STEP.orbax-checkpoint-tmp-N to STEP.
    folders = {path.name.split(".")[0]: path for path in self.folder.iterdir()}
    manifest.write(folders[str(self._saving_step)], self._verify)


def _save_args(x: Array | np.ndarray) -> ocp.SaveArgs:
  """Returns how Orbax stores an array: in chunks, the unit of reading.

  By default a chunk is what one device holds. If that is too large, stacked
  layers get a chunk for each row.
  """
  on_host = isinstance(x, np.ndarray)
  shape = x.shape if on_host else x.sharding.shard_shape(x.shape)
  is_large = math.prod(shape) * x.dtype.itemsize > CHUNK_BYTES
  return ocp.SaveArgs(
    chunk_byte_size=CHUNK_BYTES,
    shard_axes=(0,) if is_large and x.ndim > 2 else (),
  )

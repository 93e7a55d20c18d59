"""Checkpoints of the training state, by Orbax, and the run's config beside.

A workdir holds `config.json` (what the run is), `checkpoints/STEP/` and the
codecs that its latents were made with. The data order is a pure function of
(seed, step), so the step is all there is to resume the data from. Processes on
several hosts share the workdir.
"""

import json
import logging
import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from ccl_jax import distributed, files
from ccl_jax.array_types import Array, PyTree
from ccl_jax.checkpoints import restore
from ccl_jax.config import upgrade

_CHUNK_BYTES = 2**28


def read_config(workdir: epath.PathLike) -> dict[str, Any]:
  """The config that a workdir was trained with.

  Raises:
    ValueError: the folder holds no run.
  """
  path = epath.Path(workdir) / "config.json"
  if not path.exists():
    raise ValueError(f"No config.json in '{workdir}': not a training workdir.")
  return upgrade(json.loads(path.read_text()))


def claim_workdir(
  workdir: epath.PathLike,
  config: Mapping[str, Any],
  may_differ: tuple[str, ...],
) -> None:
  """Makes `workdir` this config's own, or checks that it already is.

  Sections in `may_differ` (how long to run, how often to log) can change
  between starts of one run.

  Raises:
    ValueError: the folder belongs to a run of another config.
  """
  config = json.loads(json.dumps(config))
  file = epath.Path(workdir) / "config.json"
  if file.exists():
    old = read_config(workdir)
    keys = (set(old) | set(config)) - set(may_differ)
    differ = sorted(k for k in keys if old.get(k) != config.get(k))
    if differ:
      changes = "; ".join(
        f"{k}: {old.get(k)} there, {config.get(k)} now" for k in differ
      )
      raise ValueError(
        f"workdir '{workdir}' belongs to a run of another config ({changes})."
        " Choose another --workdir, or give the same config to resume."
      )
  distributed.barrier("every process has looked at the workdir")
  if distributed.is_lead():
    files.write_json(file, config)
  distributed.barrier("the workdir is claimed")


class Checkpointer:
  """Saves every `save_interval_steps`, keeps the last `max_to_keep`, resumes the newest.

  Of several processes all make the same calls.
  """

  def __init__(
    self,
    workdir: epath.PathLike,
    save_interval_steps: int = 500,
    max_to_keep: int = 3,
  ):
    if save_interval_steps < 1 or max_to_keep < 1:
      raise ValueError(
        f"checkpoint {save_interval_steps=}, {max_to_keep=}: expected at least 1."
      )
    self.save_interval_steps = save_interval_steps
    self.workdir = files.absolute(workdir)
    self.folder = self.workdir / "checkpoints"
    self._saving = 0
    self.manager = ocp.CheckpointManager(
      self.folder,
      options=ocp.CheckpointManagerOptions(
        max_to_keep=max_to_keep,
        cleanup_tmp_directories=True,
        async_options=ocp.AsyncOptions(
          post_finalization_callback=self._record_files
        ),
      ),
    )

  def is_due(self, step: int) -> bool:
    """Whether `save` would save, were it not the last step."""
    return step % self.save_interval_steps == 0

  def save(self, step: int, state: PyTree, last: bool = False) -> None:
    """Saves in the background if `step` is due or `last`; once per step.

    Raises:
      RuntimeError: it was not saved, as there is one of a later step.
      Exception: the save before failed in the background.
    """
    if not (self.is_due(step) or last) or step in self.manager.all_steps():
      return
    self.manager.wait_until_finished()
    self._saving = step
    how = jax.tree.map(_in_chunks, state)
    if not self.manager.save(step, args=ocp.args.StandardSave(state, how)):
      raise RuntimeError(
        f"Orbax did not save step {step} in '{self.folder}', which has the"
        f" steps {list(self.manager.all_steps())}."
      )

  def restore_newest(self, shapes: PyTree) -> tuple[PyTree, int] | None:
    """The newest checkpoint that can be read and its step; None for a new run.

    Newer ones that cannot be read are named in a warning and moved to
    `checkpoints.broken`.

    Args:
      shapes: ShapeDtypeStructs with shardings, on any mesh.

    Raises:
      ValueError: it is a checkpoint of another model, or all are broken.
    """
    reasons: dict[int, str] = {}
    for step in sorted(self.manager.all_steps(), reverse=True):
      state, reason = self._try_to_read(step, shapes)
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

  def close(self) -> None:
    """Waits for a save under way; raises what went wrong in it."""
    self.manager.close()

  def _try_to_read(
    self, step: int, shapes: PyTree
  ) -> tuple[PyTree, str | None]:
    """The state, or why some process cannot read it."""
    state, reason = None, None
    try:
      state = restore.read_state(self.folder / str(step), shapes)
    except restore.BrokenError as error:
      reason = str(error)
    if not distributed.all_agree(reason is None):
      state = None
      reason = reason or f"Another process cannot read step {step}"
    return state, reason

  def _move_aside(self, broken: Iterable[int]) -> None:
    """So that these steps can be saved again."""
    if distributed.is_lead():
      for step in broken:
        target = self.workdir / "checkpoints.broken" / str(step)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.rmtree(missing_ok=True)
        (self.folder / str(step)).rename(target)
    distributed.barrier("broken checkpoints moved")
    self.manager.reload()

  def _record_files(self) -> None:
    # Orbax calls this on the lead, before the folder gets its name.
    folders = {path.name.split(".")[0]: path for path in self.folder.iterdir()}
    restore.record_files(folders[str(self._saving)])


def _in_chunks(x: Array | np.ndarray) -> ocp.SaveArgs:
  """How an array is stored: what is read of it is read by whole chunks.

  Orbax makes a chunk of what a device has. Where that is too large, one of
  stacked layers has a row to itself.
  """
  on_host = isinstance(x, np.ndarray)
  shape = x.shape if on_host else x.sharding.shard_shape(x.shape)
  is_large = math.prod(shape) * x.dtype.itemsize > _CHUNK_BYTES
  return ocp.SaveArgs(
    chunk_byte_size=_CHUNK_BYTES,
    shard_axes=(0,) if is_large and x.ndim > 2 else (),
  )

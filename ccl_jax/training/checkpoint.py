"""Checkpoints of the training state, by Orbax, and the run's config beside.

A workdir holds `config.json` (what the run is), `checkpoints/STEP/` and the
codecs that its latents were made with. The data order is a pure function of
(seed, step), so the step is all there is to resume the data from.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from ccl_jax.files import replacing
from ccl_jax.types import PyTree


def write_json(path: Path, value: Any) -> None:
  """Writes JSON, whole or not at all."""
  with replacing(path) as partial:
    partial.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def read_config(workdir: str | Path) -> dict[str, Any]:
  """The config that a workdir was trained with.

  Raises:
    ValueError: the folder holds no run.
  """
  path = Path(workdir) / "config.json"
  if not path.exists():
    raise ValueError(f"No config.json in '{workdir}': not a training workdir.")
  return json.loads(path.read_text())


def claim_workdir(
  workdir: Path, config: Mapping[str, Any], may_differ: tuple[str, ...]
) -> None:
  """Makes `workdir` this config's own, or checks that it already is.

  Sections in `may_differ` (how long to run, how often to log) can change
  between starts of one run.

  Raises:
    ValueError: the folder belongs to a run of another config.
  """
  config = json.loads(json.dumps(config))
  if (workdir / "config.json").exists():
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
  workdir.mkdir(parents=True, exist_ok=True)
  write_json(workdir / "config.json", config)


class Checkpointer:
  """Saves every `every` steps, keeps the last `keep`, resumes the newest."""

  def __init__(self, workdir: str | Path, every: int = 500, keep: int = 3):
    if every < 1 or keep < 1:
      raise ValueError(f"checkpoint {every=}, {keep=}: expected at least 1.")
    self.every = every
    self.folder = Path(workdir).absolute() / "checkpoints"
    self.manager = ocp.CheckpointManager(
      self.folder, options=ocp.CheckpointManagerOptions(max_to_keep=keep)
    )

  def save(self, step: int, state: PyTree, last: bool = False) -> None:
    """Saves in the background if `step` is due or `last`; once per step."""
    due = step % self.every == 0 or last
    if due and step not in self.manager.all_steps():
      self.manager.save(step, args=ocp.args.StandardSave(state))

  def newest(self) -> int | None:
    """The newest step that is complete, if any."""
    return self.manager.latest_step()

  def restore(self, state: PyTree, step: int | None = None) -> PyTree:
    """The state saved at `step` (default newest), laid out as `state`.

    `state` may be arrays or their shapes.

    Raises:
      ValueError: there is no such checkpoint.
    """
    steps = sorted(self.manager.all_steps())
    if not steps or (step is not None and step not in steps):
      raise ValueError(
        f"No checkpoint{'' if step is None else f' of step {step}'} in"
        f" '{self.folder}'; it has {steps or 'none'}."
      )
    shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
    return self.manager.restore(
      steps[-1] if step is None else step,
      args=ocp.args.StandardRestore(shapes),
    )

  def close(self) -> None:
    """Waits for saves under way."""
    self.manager.wait_until_finished()
    self.manager.close()

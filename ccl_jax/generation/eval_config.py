"""The `eval` section of a config."""

import dataclasses
from collections.abc import Sequence

from etils import epath

from ccl_jax.config import check_value
from ccl_jax.data import records
from ccl_jax.data.clip import ClipShape
from ccl_jax.diffusion import tasks
from ccl_jax.processes import distributed
from ccl_jax.training.log_config import share_names


@dataclasses.dataclass(frozen=True)
class EvalConfig:
  """The `eval` section.

  Attributes:
    every_steps: steps between two evaluations; the last step has one too.
    split: of the data.
    num_clips: clips for each task.
    tasks: inference tasks; none for no evaluation.
    loss_every_steps: steps between two losses on the split; 0 for none.
    loss_batches: batches of the split that these are the mean of.
    all_shapes: sample clips of every shape of the data, not of the first alone.
    world: folder of the clips that the data were encoded from, if it is of a
      synthetic world: clips are then scored too. "" for none.
    num_scored: clips for each task that are scored, at most.

  Raises:
    ValueError: an unknown task, or a number out of range.
  """

  every_steps: int = 1000
  split: str = "validation"
  num_clips: int = 4
  tasks: tuple[str, ...] = ("t2av", "a2v")
  loss_every_steps: int = 0
  loss_batches: int = 4
  all_shapes: bool = False
  world: str = ""
  num_scored: int = 16

  def __post_init__(self):
    if self.every_steps < 1:
      raise ValueError(
        f"eval.every_steps={self.every_steps}: expected 1 or more; the last"
        " step has an evaluation in any case."
      )
    least = {"loss_every_steps": 0, "loss_batches": 1, "num_scored": 2}
    for key, limit in least.items():
      value = getattr(self, key)
      check_value(f"eval.{key}", value, value >= limit, f"{limit} or more")
    if self.world and not share_names(self.tasks):
      raise ValueError(
        f"eval.world={self.world} scores clips with sound, eval.tasks has"
        f" {self.tasks}: expected one of t2av, i2av, a2v or v2a in it."
      )
    for name in self.tasks:
      tasks.inference_task(name)

  def for_data(
    self,
    streams: Sequence[str],
    conditions: Sequence[str],
    data: str,
    train_split: str,
  ) -> "EvalConfig":
    """Checks that the model can do the tasks, and the data have the split.

    Args:
      streams, conditions: of the model, see `tasks.possible_tasks`.

    Returns:
      These settings; with `train_split` in place of the default split if the
      data have no such clips.

    Raises:
      ValueError: a task that the model cannot do, or another split that does
        not exist.
    """
    for name in self.tasks:
      tasks.check_task(tasks.inference_task(name), streams, conditions)
    if self.loss_every_steps or self.world:
      records.open_split(data, self.split)
    if not self.tasks:
      return self
    is_default = self.split == type(self).split
    if is_default and self.split not in records.read_metadata(data)["counts"]:
      if distributed.is_lead():
        print(
          f"{data} has no split '{self.split}': previews are of clips of"
          f" '{train_split}', which the model trains on."
        )
      return dataclasses.replace(self, split=train_split)
    records.open_split(data, self.split)
    return self

  def list_data(
    self, data: epath.PathLike
  ) -> list[tuple[epath.Path, ClipShape]]:
    """Returns the data sets to take clips from, and their shapes."""
    return [
      (folder, ClipShape.from_dict(metadata))
      for i, (folder, metadata) in enumerate(records.list_buckets(data).items())
      if i == 0 or (self.all_shapes and self.split in metadata["counts"])
    ]

  def should_measure(self, step: int) -> bool:
    """Returns whether to compute the loss on the split after `step`."""
    return bool(self.loss_every_steps) and step % self.loss_every_steps == 0

  def should_run(self, step: int, num_steps: int) -> bool:
    """Returns whether to sample after `step` of `num_steps` steps."""
    is_due = step % self.every_steps == 0 or step == num_steps
    return bool(self.tasks) and is_due

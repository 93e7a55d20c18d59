"""The `log` section of a config, and a check of the metric of `keep_best`.

Losses are logged every `log.every_steps` steps, held-out losses every
`eval.loss_every_steps`, shares every `eval.every_steps`. Checkpoints can only
be chosen by a metric that is known whenever a checkpoint is saved.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ccl_jax.array_types import STREAMS
from ccl_jax.checkpoints.restore import SHARE
from ccl_jax.config import check_value, suggest
from ccl_jax.diffusion.loss import loss_names
from ccl_jax.diffusion.tasks import inference_task
from ccl_jax.metrics.synchworld import HEADLINES
from ccl_jax.training.log import HELD_OUT_PREFIX


@dataclasses.dataclass(frozen=True)
class LogConfig:
  """The `log` section.

  Attributes:
    every_steps: steps between two lines.
    max_nonfinite_steps: steps in a row without an update that end the run.
    profile_steps: (first, last + 1) of the steps to trace, or ().
    profiler_port: port at which process 0 serves traces; 0 for none.

  Raises:
    ValueError: `every_steps` is less than 1.
  """

  every_steps: int = 10
  max_nonfinite_steps: int = 20
  profile_steps: tuple[int, ...] = ()
  profiler_port: int = 0

  def __post_init__(self):
    every_steps = self.every_steps
    check_value("log.every_steps", every_steps, every_steps > 0, "at least 1")


def share_name(task: str, score: str) -> str:
  """Returns the name of a share in the log."""
  return f"{SHARE}{task}/{score.replace(' ', '_')}"


def share_names(tasks: Sequence[str]) -> list[str]:
  """Returns the names of headline shares, of tasks that have both streams."""
  scored = [t for t in tasks if set(inference_task(t).streams) == set(STREAMS)]
  return [share_name(task, score) for task in scored for score in HEADLINES]


def check_keep_best(config: Mapping[str, Any], streams: Sequence[str]) -> None:
  """Raises ValueError unless `checkpoint.keep_best` is known at each save."""
  name = config["checkpoint"].get("keep_best", "")
  interval = config["checkpoint"]["save_interval_steps"]
  if not name:
    return
  losses = loss_names(streams)
  shares = share_names(config["eval"].get("tasks", ()))
  if name not in shares and name.removeprefix(HELD_OUT_PREFIX) not in losses:
    raise ValueError(
      f"checkpoint.keep_best is '{name}'.{suggest(name, [*losses, *shares])}"
      f" Expected one of {', '.join(losses)}, perhaps with"
      f" {HELD_OUT_PREFIX} before it"
      + "".join(f", or {share}" for share in shares)
      + "."
    )
  if name in shares and not config["eval"].get("world"):
    raise ValueError(
      f"checkpoint.keep_best={name} is known of clips of a synthetic world:"
      " set eval.world to the folder that the data were encoded from."
    )
  key = "log.every_steps"
  if name.startswith(HELD_OUT_PREFIX):
    key = "eval.every_steps" if name in shares else "eval.loss_every_steps"
  section, field = key.split(".")
  if not (every := config[section][field]) or interval % every:
    raise ValueError(
      f"checkpoint.keep_best={name} is known every {key}={every} steps, and"
      f" checkpoints are saved every {interval}: set {key} to a number that"
      f" divides {interval}."
    )

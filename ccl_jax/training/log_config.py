"""The `log` section of a config, and the check of a metric that must be known.

A loss is in the log of every `log.every_steps` steps, one on held-out clips of
every `eval.loss_every_steps`. Checkpoints can only be chosen by a loss that is
known whenever one is saved.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ccl_jax.config import suggest
from ccl_jax.diffusion.objective import loss_names
from ccl_jax.training.log import HELD_OUT


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
    if self.every_steps < 1:
      raise ValueError(
        f"log.every_steps={self.every_steps}: expected at least 1."
      )


def check_keep_best(config: Mapping[str, Any], streams: Sequence[str]) -> None:
  """Checks that `checkpoint.keep_best` is a loss known at each checkpoint.

  Args:
    config: of the run.
    streams: of the model.

  Raises:
    ValueError: it is not.
  """
  name = config["checkpoint"].get("keep_best", "")
  interval = config["checkpoint"]["save_interval_steps"]
  if not name:
    return
  known = loss_names(streams)
  if name.removeprefix(HELD_OUT) not in known:
    raise ValueError(
      f"checkpoint.keep_best is '{name}'.{suggest(name, known)} Expected one of"
      f" {', '.join(known)}, perhaps with {HELD_OUT} before it."
    )
  is_held_out = name.startswith(HELD_OUT)
  key = "eval.loss_every_steps" if is_held_out else "log.every_steps"
  section, _, field = key.partition(".")
  if not (every := config[section][field]) or interval % every:
    raise ValueError(
      f"checkpoint.keep_best={name} is known every {key}={every} steps, and"
      f" checkpoints are saved every {interval}: set {key} to a number that"
      f" divides {interval}."
    )

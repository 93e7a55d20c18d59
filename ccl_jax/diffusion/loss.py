"""The loss of a training example (Eq. 7), and its parts by task and time.

    L = mean over samples of [ lv 1(video is generated) mse_v
                            + la 1(audio is generated) mse_a ]

with mse that of the velocity or, as in DDPM, that of the noise that follows
from it: (1 - t)^2 mse (`models/prediction.py`, eq. 1).
"""

from collections.abc import Sequence

import jax.numpy as jnp

from ccl_jax.array_types import Array, Bool, Float, State
from ccl_jax.diffusion import flow, tasks
from ccl_jax.diffusion.objective import Example, Objective

_FIFTHS = ("0.0-0.2", "0.2-0.4", "0.4-0.6", "0.6-0.8", "0.8-1.0")  # of times


def loss_names(streams: Sequence[str]) -> list[str]:
  """Returns "loss" and the names of its parts, see `loss`."""
  by_task = [
    f"loss/{task.name}/{s}"
    for task in tasks.TASKS
    for s in streams
    if s in task.generated
  ]
  by_time = [f"loss_t/{s}/{fifth}" for s in streams for fifth in _FIFTHS]
  return ["loss", *by_task, *by_time]


def loss(
  prediction: State, example: Example, objective: Objective
) -> tuple[Float[Array, ""], dict[str, dict[str, Array]]]:
  """Returns the objective's value for predicted velocities, and its parts.

  Returns:
    The loss, and metrics `{"sum": {name: ()}, "count": {name: ()}}`: sums of
    mse over the samples of a group, and their number. Groups of a stream are
    its tasks, "loss/joint/video", and its noisy times, "loss_t/video/0.2-0.4".
    Both add over steps; a mean is sum / count where count is not 0.
  """
  errors = {
    s: flow.mse(prediction[s], example.target[s], example.loss_mask[s])
    for s in example.target
  }
  if objective.error == "noise":
    errors = {
      s: (1 - _noisy_time(example, s)) ** 2 * x for s, x in errors.items()
    }
  value = sum(jnp.mean(objective.weight(s) * errors[s]) for s in errors)
  metrics = {"sum": {}, "count": {}}
  for s, error in errors.items():
    for name, group in _groups(example, s).items():
      counted = group & example.route.is_generated[s]
      metrics["sum"][name] = jnp.sum(jnp.where(counted, error, 0.0))
      metrics["count"][name] = jnp.sum(counted)
  return value, metrics


def _noisy_time(example: Example, stream: str) -> Float[Array, " b"]:
  """Returns the time of the latents of a stream that are not clean."""
  t = example.t[stream]
  return t.reshape(len(t), -1).max(axis=1)


def _groups(example: Example, stream: str) -> dict[str, Bool[Array, " b"]]:
  """Returns the samples of each task and of each fifth of noisy times."""
  by_task = {
    f"loss/{task.name}/{stream}": example.task == index
    for index, task in enumerate(tasks.TASKS)
    if stream in task.generated
  }
  fifth = jnp.clip((5 * _noisy_time(example, stream)).astype(jnp.int32), 0, 4)
  return by_task | {
    f"loss_t/{stream}/{name}": fifth == i for i, name in enumerate(_FIFTHS)
  }

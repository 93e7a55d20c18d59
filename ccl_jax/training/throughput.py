"""Speed of training, and memory.

    seconds  = (wall - setup, compile, checkpoint, eval, profile) / steps   (1)
    tokens/s = tokens of a step / seconds
    FLOP/s   = useful FLOPs of a step / seconds / chips
    MFU      = FLOP/s / peak of the chip (dense bfloat16)

Useful FLOPs are counted by formula (`cost/flops.py`), without recomputation by
rematerialisation. If a chip is not in `cost/chips.py`, its peak is unknown, and
there is neither FLOP/s nor MFU.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from ccl_jax.array_types import STREAMS
from ccl_jax.cost import chips, flops
from ccl_jax.training.goodput import BETWEEN_STEPS


@dataclasses.dataclass(frozen=True)
class StepCost:
  """Size of one training step, over all processes.

  Attributes:
    samples: clips.
    tokens: video and audio tokens of the clips; a stream that is only a
      reference, or that a clip lacks, is counted, as the model runs it anyway.
    flops: useful FLOPs, forward and backward.
    chips: number of chips.
    peak: FLOP/s of a chip; None if unknown.
  """

  samples: float | int
  tokens: float | int
  flops: float
  chips: int
  peak: float | None


def count_tokens(model: Mapping[str, Any], shape: flops.Shape) -> int:
  """Returns the tokens of a clip, of all streams of the model."""
  return sum(
    round(shape.frames * shape.tokens_per_frame(s, model[s]))
    for s in STREAMS
    if model.get(s)
  )


def mean_cost(costs: Sequence[StepCost]) -> StepCost:
  """Returns the cost of a step on average, of steps on the same chips."""
  if len(set(costs)) == 1:
    return costs[0]
  sums = {
    name: sum(getattr(cost, name) for cost in costs) / len(costs)
    for name in ("samples", "tokens", "flops")
  }
  return dataclasses.replace(costs[0], **sums)


def make_step_cost(
  model: Mapping[str, Any],
  shape: flops.Shape,
  samples: int,
  devices: Sequence[Any],
) -> StepCost:
  """Returns the cost of a step of `samples` clips of one shape.

  Args:
    model: the `model` section of a config.
    devices: all devices of the step, in all processes.
  """
  chip = chips.chip_of(devices[0].device_kind)
  return StepCost(
    samples,
    samples * count_tokens(model, shape),
    samples * sum(flops.train_flops(model, shape).values()),
    chips.count_chips(devices),
    chip.peak if chip else None,
  )


def speed_metrics(
  before: Mapping[str, float],
  after: Mapping[str, float],
  costs: Sequence[StepCost],
) -> dict[str, float]:
  """Returns the speed between two readings of `Goodput.seconds`.

  "data_seconds" is how long the loop waited for data, per step; the device may
  have been busy.

  Args:
    costs: of the steps between them; without a step nothing is returned.
  """
  if not costs:
    return {}
  steps, cost = len(costs), mean_cost(costs)
  spent = {event: after[event] - before[event] for event in after}
  seconds = sum(v for k, v in spent.items() if k not in BETWEEN_STEPS) / steps
  found = {
    "step_seconds": seconds,
    "data_seconds": spent["data"] / steps,
    "steps_per_second": 1 / seconds,
    "samples_per_second": cost.samples / seconds,
    "tokens_per_second": cost.tokens / seconds,
  }
  if cost.peak is not None:
    achieved = cost.flops / seconds / cost.chips
    found |= {
      "tflops_per_chip": achieved / 1e12, "mfu": achieved / cost.peak,
    }  # fmt: skip
  return found


def memory_metrics() -> dict[str, float]:
  """Returns the GiB in use, now and at the peak, of the fullest device.

  Backends that do not report memory, as on CPUs, have none.
  """
  stats = [stat for d in jax.local_devices() if (stat := d.memory_stats())]
  keys = {"hbm_gib": "bytes_in_use", "hbm_peak_gib": "peak_bytes_in_use"}
  return {
    name: max(stat[key] for stat in stats) / chips.GIB
    for name, key in keys.items()
    if stats and all(key in stat for stat in stats)
  }

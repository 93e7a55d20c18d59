"""Speed: what a step does, divided by what it takes.

    seconds  = (wall - setup, compile, checkpoint, eval, profile) / steps   (1)
    tokens/s = tokens of a step / seconds
    FLOP/s   = useful FLOPs of a step / seconds / chips
    MFU      = FLOP/s / peak of the chip (dense bfloat16)

Useful FLOPs are counted by hand (`cost/flops.py`), nothing twice for
rematerialisation. A chip that is not in `cost/chips.py` has no known peak, and
then neither FLOP/s nor MFU is told.
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
  """What one step does, over all processes.

  Attributes:
    samples: clips.
    tokens: video and audio tokens in them; a stream that is only a reference,
      or that a clip lacks, goes through the model all the same.
    flops: useful ones, forward and backward.
    chips: that share it.
    peak: FLOP/s of a chip; None where it is not known.
  """

  samples: int
  tokens: int
  flops: float
  chips: int
  peak: float | None


def make_work(
  model: Mapping[str, Any],
  shape: flops.Shape,
  samples: int,
  devices: Sequence[Any],
) -> StepCost:
  """The work of a step of `samples` clips of one shape.

  Args:
    model: the `model` section of a config.
    devices: all that the step runs on, in all processes.
  """
  tokens = sum(
    shape.frames * shape.tokens_per_frame(s, model[s])
    for s in STREAMS
    if model.get(s)
  )
  chip = chips.chip_of(devices[0].device_kind)
  return StepCost(
    samples,
    samples * tokens,
    samples * sum(flops.train_flops(model, shape).values()),
    chips.count_chips(devices),
    chip.peak if chip else None,
  )


def rates(
  before: Mapping[str, float],
  after: Mapping[str, float],
  steps: int,
  work: StepCost,
) -> dict[str, float]:
  """Speed between two readings of `Goodput.seconds`, `steps` steps apart.

  Nothing if there was no step. "data_seconds" is what the loop waited for data,
  per step; the device may have been at work.
  """
  if not steps:
    return {}
  spent = {event: after[event] - before[event] for event in after}
  seconds = sum(v for k, v in spent.items() if k not in BETWEEN_STEPS) / steps
  found = {
    "step_seconds": seconds,
    "data_seconds": spent["data"] / steps,
    "steps_per_second": 1 / seconds,
    "samples_per_second": work.samples / seconds,
    "tokens_per_second": work.tokens / seconds,
  }
  if work.peak is not None:
    achieved = work.flops / seconds / work.chips
    found |= {
      "tflops_per_chip": achieved / 1e12, "mfu": achieved / work.peak,
    }  # fmt: skip
  return found


def memory(devices: Sequence[Any] | None = None) -> dict[str, float]:
  """GiB in use now and at most so far, on the fullest of these devices.

  Args:
    devices: of this process; all of them if None.

  Returns:
    Nothing where the backend does not tell, as on CPUs.
  """
  devices = jax.local_devices() if devices is None else devices
  stats = [stat for d in devices if (stat := d.memory_stats())]
  keys = {"hbm_gib": "bytes_in_use", "hbm_peak_gib": "peak_bytes_in_use"}
  return {
    name: max(stat[key] for stat in stats) / chips.GIB
    for name, key in keys.items()
    if stats and all(key in stat for stat in stats)
  }

import dataclasses
from types import SimpleNamespace

import jax
import pytest

from ccl_jax.cost import flops
from ccl_jax.training.throughput import (
  StepCost,
  make_step_cost,
  memory_metrics,
  speed_metrics,
)
from configs.ccl import get_config
from tests.training import clocks
from tests.training.clocks import spend

WORK = StepCost(samples=4, tokens=600, flops=8e12, chips=2, peak=10e12)


def window():
  """Two readings around 5 steps of 2 s, with much else in between."""
  clock, time = clocks.make()
  spend(clock, time, "compile", 100)
  before = clock.seconds()
  for event in ("setup", "compile", "checkpoint", "eval", "profile"):
    spend(clock, time, event, 50)
  for _ in range(5):
    spend(clock, time, "data", 0.5)
    spend(clock, time, "step", 1.25)
    time.seconds += 0.25
  return before, clock.seconds()


def test_speed_is_of_the_time_that_belongs_to_steps():
  assert speed_metrics(*window(), [WORK] * 5) == pytest.approx({
    "step_seconds": 2.0,
    "data_seconds": 0.5,
    "steps_per_second": 0.5,
    "samples_per_second": 2.0,
    "tokens_per_second": 300.0,
    "tflops_per_chip": 2.0,
    "mfu": 0.2,
  })  # fmt: skip


def test_what_is_not_known_is_not_told():
  unknown = dataclasses.replace(WORK, peak=None)
  found = speed_metrics(*window(), [unknown] * 5)
  assert "tokens_per_second" in found
  assert not {"mfu", "tflops_per_chip"} & set(found)
  assert speed_metrics(*window(), []) == {}
  assert memory_metrics() == {}  # unknown on CPUs


def test_memory_is_of_the_fullest_device(monkeypatch):
  def device(used, peak):
    stats = {"bytes_in_use": used * 2**30, "peak_bytes_in_use": peak * 2**30}
    return SimpleNamespace(memory_stats=lambda: stats)

  monkeypatch.setattr(
    jax, "local_devices", lambda: [device(1, 5), device(3, 4)]
  )
  assert memory_metrics() == {"hbm_gib": 3, "hbm_peak_gib": 5}


@pytest.mark.parametrize(
  ("stage", "tokens"),
  [("joint", 31 * (22 * 40 + 5)), ("audio", 31 * 5), ("video", 31 * 22 * 40)],
)
def test_the_work_of_a_step_is_counted_for_all_chips(stage, tokens):
  model = get_config(f"size=14b,stage={stage}").model.to_dict()
  shape = flops.Shape(31, 44, 80)
  # A tpu7x chip is two devices.
  devices = [
    SimpleNamespace(device_kind="TPU7x", coords=(i // 2, 0, 0), id=i)
    for i in range(8)
  ]
  work = make_step_cost(model, shape, 320, devices)
  assert work.tokens == 320 * tokens
  assert work.flops == 320 * sum(flops.train_flops(model, shape).values())
  assert (work.samples, work.chips, work.peak) == (320, 4, 2307e12)
  assert make_step_cost(model, shape, 8, jax.devices()).peak is None

"""When a checkpoint is due by the clock."""

import itertools
import math

import pytest

from ccl_jax.checkpoints import save_timer
from ccl_jax.checkpoints.save_timer import SaveTimer


class Clock:
  """A clock that a test moves."""

  def __init__(self):
    self.now = 0.0

  def __call__(self):
    return self.now


def saves(minutes, paces, first=1):
  """(step, seconds) of each save of a run whose steps take `paces`."""
  clock = Clock()
  timer, found = SaveTimer(minutes, clock), []
  for step, pace in enumerate(paces, first):
    clock.now += pace
    if timer.is_due(step):
      assert timer.is_due(step)  # as often as it is asked
      timer.restart(step)
      found.append((step, clock.now))
  return found


def test_a_save_is_due_when_the_minutes_are_over():
  assert saves(30, [100.0] * 60) == [(18, 1800.0), (36, 3600.0), (54, 5400.0)]


def test_a_long_first_step_and_a_slow_end_are_no_matter():
  """Compilation takes 10 minutes; later the data come slowly."""
  steps = [600.0, *[10.0] * 200, *[45.0] * 200]
  found = [0.0, *(seconds for _, seconds in saves(30, steps))]
  gaps = [b - a for a, b in itertools.pairwise(found)]
  assert len(gaps) >= 5
  assert all(1800 - 23 <= gap <= 1800 * 1.25 for gap in gaps), gaps


@pytest.mark.parametrize("first", [1, 70001])
def test_steps_that_are_longer_than_that_are_all_saved(first):
  steps = [step for step, _ in saves(1, [100.0] * 5, first)]
  assert steps == list(range(first, first + 5))


def test_it_is_seldom_asked_of_the_lead(monkeypatch):
  """Each question waits for the devices."""
  asked = []
  monkeypatch.setattr(
    save_timer.distributed,
    "broadcast_ints",
    lambda values: asked.append(values) or values,
  )
  assert [step for step, _ in saves(30, [0.125] * 30000)] == [14400, 28800]
  assert len(asked) < 50


def test_a_save_by_steps_begins_the_minutes_anew():
  clock = Clock()
  timer = SaveTimer(10, clock)
  for step in range(1, 10):
    clock.now += 60
    assert not timer.is_due(step)
  timer.restart(9)
  due = []
  for step in range(10, 20):
    clock.now += 60
    due += [step] * timer.is_due(step)
  assert due == [19]


def test_zero_minutes_are_never_over():
  assert saves(0, [1e9] * 3) == []


@pytest.mark.parametrize("minutes", [-1, math.nan, math.inf])
def test_wrong_minutes_are_errors(minutes):
  with pytest.raises(ValueError, match="expected at least 0"):
    SaveTimer(minutes)

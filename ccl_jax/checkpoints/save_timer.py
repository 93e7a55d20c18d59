"""Saves by the clock, at the same steps in all processes."""

import math
import time
from collections.abc import Callable

from ccl_jax.config import check_value
from ccl_jax.processes import distributed


class SaveTimer:
  """Timer that decides after which steps to save, by minutes since the last.

  The clocks of hosts differ, and saves after different steps would wait for one
  another forever: process 0 looks at its clock, and the others follow it.
  Asking waits for the devices, so processes ask only after half of the steps
  that fit in the time left, at the pace since the last question.

  Args:
    minutes: 0 is never.
    clock: returns seconds.

  Raises:
    ValueError: `minutes` is negative or not finite.
  """

  def __init__(
    self, minutes: float | int, clock: Callable[[], float] = time.monotonic
  ):
    check_value(
      "checkpoint.every_minutes", minutes, 0 <= minutes < math.inf,
      "at least 0 (never)",
    )  # fmt: skip
    self._seconds, self._clock = 60.0 * minutes, clock
    self._saved_at = self._asked_at = clock()
    self._last_step: int | None = None  # of the last question or save
    self._next_step = 0  # of the next question

  def is_due(self, step: int) -> bool:
    """Returns whether to save; all processes must ask after every step."""
    if not self._seconds or step < self._next_step:
      return False
    is_due, wait = distributed.broadcast_ints(self._look(step))
    self._next_step = step if is_due else step + wait
    return bool(is_due)

  def restart(self, step: int) -> None:
    """Notes that this step is saved."""
    self._saved_at = self._asked_at = self._clock()
    self._last_step, self._next_step = step, step + 1

  def _look(self, step: int) -> tuple[int, int]:
    """Returns whether to save, and steps until the next question."""
    now = self._clock()
    left = self._saved_at + self._seconds - now
    steps = step - self._last_step if self._last_step is not None else 1
    pace = (now - self._asked_at) / max(steps, 1)
    self._asked_at, self._last_step = now, step
    if left <= pace / 2:  # nearer than after another step
      return 1, 0
    return 0, max(1, int(min(left / max(pace, 1e-9) / 2, 1e6)))

"""Goodput: the share of a run's wall time that is spent on training steps.

    clock = Goodput()
    with clock("data"):
      batch = loader.batch_at(i)

Time is counted for the innermost open event, or for "other" without one, so the
seconds of all events add up to the wall time since the clock was made.

    goodput = seconds of "step" / wall seconds                             (1)

The loop waits for a step during the next one (see `metrics.DelayedMetrics`), so
"step" is the time in which it only waits for the device. The device also works
while the loop is in "data" or "other", unless these take longer than a step:
(1) is a lower bound of the share of time in which the device works.
"""

import contextlib
import time
from collections.abc import Callable, Iterator

from ccl_jax.config import check_choice

EVENTS = (
  "setup",  # before the loop: data, state, restoring
  "compile",  # the first step, with its compilation
  "step",
  "data",  # waiting for the next batch
  "checkpoint",
  "eval",
  "profile",  # writing a trace
  "other",
)
# Not part of what a step costs.
BETWEEN_STEPS = ("setup", "compile", "checkpoint", "eval", "profile")


class Goodput:
  """Clock of one process, which starts when it is made."""

  def __init__(self, now: Callable[[], float] = time.perf_counter):
    self._now = now
    self._open = ["other"]
    self._seconds = dict.fromkeys(EVENTS, 0.0)
    self._since = now()

  @contextlib.contextmanager
  def __call__(self, event: str) -> Iterator[None]:
    """Counts the time of a `with` block for `event`.

    Time in an event inside the block is counted for that one only.

    Raises:
      ValueError: an unknown event.
    """
    check_choice("event", event, EVENTS)
    self._charge()
    self._open.append(event)
    try:
      yield
    finally:
      self._charge()
      self._open.pop()

  def seconds(self) -> dict[str, float]:
    """Returns the seconds of each event until now, and of "other"."""
    self._charge()
    return dict(self._seconds)

  def shares(self) -> dict[str, float]:
    """Returns each event's share of the wall time; that of "step" is eq. 1."""
    seconds = self.seconds()
    wall = sum(seconds.values())
    return {k: v / wall if wall else 0.0 for k, v in seconds.items()}

  def summary(self) -> str:
    """Returns one line with all shares, the largest first."""
    wall, shares = sum(self.seconds().values()), self.shares()
    parts = sorted(shares.items(), key=lambda item: -item[1])
    return f"{wall:.1f} s, goodput {shares['step']:.1%}: " + ", ".join(
      f"{event} {share:.1%}" for event, share in parts if share
    )

  def _charge(self) -> None:
    """Counts the time since the last call for the innermost open event."""
    now = self._now()
    self._seconds[self._open[-1]] += now - self._since
    self._since = now

"""Where a run's wall time goes: one clock, stopped for by events.

    clock = Goodput()
    with clock("data"):
      batch = loader.batch_at(i)

At any moment time belongs to the innermost open event, or to "other", so that
the seconds of all events add up to the wall time since the clock was made.

    goodput = seconds of "step" / wall seconds                             (1)

A step is waited for in the next one, see `fetch.DelayedMetrics`: "step" is the time in
which the loop had nothing to do but wait for the device. The device also works
while the loop is in "data" or "other", unless they take longer than a step;
(1) is therefore a lower bound of the time in which it trains.
"""

import contextlib
import time
from collections.abc import Callable, Iterator

EVENTS = (
  "setup",  # before the loop: data, state, restoring
  "compile",  # the first step as a whole
  "step",
  "data",  # waiting for the next batch
  "checkpoint",
  "eval",
  "profile",  # writing a trace
)
OTHER = "other"
# Not part of what a step costs.
BETWEEN_STEPS = ("setup", "compile", "checkpoint", "eval", "profile")


class Goodput:
  """The clock of one process; it starts when made."""

  def __init__(self, now: Callable[[], float] = time.perf_counter):
    self._now = now
    self._open = [OTHER]
    self._seconds = dict.fromkeys((*EVENTS, OTHER), 0.0)
    self._since = now()

  @contextlib.contextmanager
  def __call__(self, event: str) -> Iterator[None]:
    """While open, time belongs to `event`; to an inner event while in that.

    Raises:
      ValueError: an unknown event.
    """
    if event not in EVENTS:
      raise ValueError(f"{event=}: expected one of {', '.join(EVENTS)}.")
    self._charge()
    self._open.append(event)
    try:
      yield
    finally:
      self._charge()
      self._open.pop()

  def seconds(self) -> dict[str, float]:
    """Seconds of each event until now, and of "other"."""
    self._charge()
    return dict(self._seconds)

  def shares(self) -> dict[str, float]:
    """The same as shares of the wall time; the share of "step" is eq. 1."""
    seconds = self.seconds()
    wall = sum(seconds.values())
    return {k: v / wall if wall else 0.0 for k, v in seconds.items()}

  def summary(self) -> str:
    """One line for the end of a run, the largest share first."""
    wall, shares = sum(self.seconds().values()), self.shares()
    parts = sorted(shares.items(), key=lambda item: -item[1])
    return f"{wall:.1f} s, goodput {shares['step']:.1%}: " + ", ".join(
      f"{event} {share:.1%}" for event, share in parts if share
    )

  def _charge(self) -> None:
    """Gives the time since the last call to the event that is open."""
    now = self._now()
    self._seconds[self._open[-1]] += now - self._since
    self._since = now

"""Stopping in order: SIGTERM, or one Ctrl-C, ends a run after a whole step.

One process reads its own flag. Of several, each must stop after the same step,
or the rest would wait in a collective: there JAX takes the SIGTERM of any one
of them, and agrees with the others on the first step that none has passed.
"""

import signal
from types import FrameType, TracebackType

import jax
from jax.experimental import multihost_utils


class StopSignal:
  """While open, turns signals into a question that the loop asks each step.

      with StopSignal() as stop:
        for i in range(start, num_steps):
          ...
          if stop.is_due(i + 1):
            break

  A second Ctrl-C interrupts at once.
  """

  def __init__(self):
    self.received: str | None = None
    self._is_shared = jax.distributed.is_initialized()
    self._old: dict[int, object] = {}

  def __enter__(self) -> "StopSignal":
    watched = [signal.SIGINT]
    # Of several processes JAX itself handles it, since `initialize`.
    if not self._is_shared:
      watched.append(signal.SIGTERM)
    self._old = {s: signal.signal(s, self._receive) for s in watched}
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    for number, handler in self._old.items():
      signal.signal(number, handler)

  def is_due(self, step: int) -> bool:
    """Whether to stop now; all processes must ask, after every step."""
    if self._is_shared:
      return multihost_utils.reached_preemption_sync_point(step)
    return self.received is not None

  def _receive(self, number: int, frame: FrameType | None) -> None:
    if number == signal.SIGINT and self.received:
      raise KeyboardInterrupt
    self.received = signal.Signals(number).name
    if self._is_shared:
      signal.raise_signal(signal.SIGTERM)

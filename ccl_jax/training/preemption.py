"""Preemption: SIGTERM, or one Ctrl-C, ends a run after the current step.

A single process only remembers the signal. Several processes must stop after
the same step, or some would wait in a collective forever: JAX receives the
SIGTERM of any process, and all agree on the first step that no process has
passed.
"""

import signal
from types import FrameType, TracebackType

import jax
from jax.experimental import multihost_utils


class StopSignal:
  """Signal handler that the training loop asks after each step.

      with StopSignal() as stop:
        for i in range(start, num_steps):
          ...
          if stop.should_stop(i + 1):
            break

  A second Ctrl-C interrupts at once.
  """

  def __init__(self):
    self.received: str | None = None
    self._is_shared = jax.distributed.is_initialized()
    self._old: dict[int, object] = {}

  def __enter__(self) -> "StopSignal":
    watched = [signal.SIGINT]
    # With several processes JAX handles SIGTERM, since `initialize`.
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

  def should_stop(self, step: int) -> bool:
    """Returns whether to stop; all processes must ask after every step."""
    if self._is_shared:
      return multihost_utils.reached_preemption_sync_point(step)
    return self.received is not None

  def _receive(self, number: int, frame: FrameType | None) -> None:
    if number == signal.SIGINT and self.received:
      raise KeyboardInterrupt
    self.received = signal.Signals(number).name
    if self._is_shared:  # Ctrl-C too is agreed on with the others.
      signal.raise_signal(signal.SIGTERM)

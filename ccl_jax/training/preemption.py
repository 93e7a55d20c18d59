"""Preemption: SIGTERM, or one Ctrl-C, ends a run after the current step.

A single process only remembers the signal. Several processes must stop after
the same step, or some would wait in a collective forever: JAX receives the
SIGTERM of any process, and all agree on the first step that no process has
passed.
"""

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

import jax
from jax.experimental import multihost_utils


@contextlib.contextmanager
def stop_signal() -> Iterator[Callable[[int], bool]]:
  """Handles signals, and yields what the training loop asks after each step:

      with stop_signal() as should_stop:
        for i in range(start, num_steps):
          ...
          if should_stop(i + 1):
            break

  All processes must ask. A second Ctrl-C interrupts at once.
  """
  is_shared, received = jax.distributed.is_initialized(), []

  def receive(number: int, frame: FrameType | None) -> None:
    if number == signal.SIGINT and received:
      raise KeyboardInterrupt
    received.append(number)
    if is_shared:  # Ctrl-C too is agreed on with the others.
      signal.raise_signal(signal.SIGTERM)

  def should_stop(step: int) -> bool:
    if is_shared:
      return multihost_utils.reached_preemption_sync_point(step)
    return bool(received)

  # With several processes JAX handles SIGTERM, since `initialize`.
  watched = [signal.SIGINT] if is_shared else [signal.SIGINT, signal.SIGTERM]
  old = {number: signal.signal(number, receive) for number in watched}
  try:
    yield should_stop
  finally:
    for number, handler in old.items():
      signal.signal(number, handler)

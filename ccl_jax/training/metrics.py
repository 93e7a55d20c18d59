"""Metrics of a step on their way to the host, and what they say there.

lagged = Lagged()
for i in range(start, num_steps):
  state, metrics = take_step(state, batch)          # returns at once
  for step, found in lagged.push(i + 1, metrics):   # those of step i
    check_skipped(step, found, limit, loader.names_at)
"""

import logging
from collections.abc import Callable, Sequence

import jax
import numpy as np

from ccl_jax.array_types import PyTree


class DelayedMetrics:
  """Gives metrics one step late, so that the device is never idle for them."""

  def __init__(self):
    self._pending: list[tuple[int, PyTree]] = []

  def push(self, step: int, metrics: PyTree) -> list[tuple[int, PyTree]]:
    """Keeps those of a step just dispatched; drains what was there before."""
    before = self.drain()
    self._pending.append((step, metrics))
    return before

  def drain(self) -> list[tuple[int, PyTree]]:
    """Waits for what is kept; (step, metrics on the host), none or one."""
    pending, self._pending = self._pending, []
    return [(step, jax.device_get(metrics)) for step, metrics in pending]


def check_skipped(
  step: int,
  metrics: PyTree,
  limit: int,
  names_at: Callable[[int], Sequence[str]],
) -> None:
  """Warns of a step that made no update, and gives up on many in a row.

  Args:
    step: number of steps done with it.
    metrics: of that step, on the host; "skipped" is how many in a row.
    limit: how many in a row are too many.
    names_at: number of steps done before -> the records of a step's batch.

  Raises:
    FloatingPointError: `limit` steps in a row were skipped.
  """
  count = int(metrics["skipped"])
  if not count:
    return
  text = (
    f"Step {step}: loss {metrics['loss']} or gradient {metrics['grad_norm']} is"
    f" not finite, no update; records {', '.join(names_at(step - 1))}"
  )
  if count >= limit:
    raise FloatingPointError(
      f"{text}. That is {count} in a row: lower the learning rate, or look at"
      " these records."
    )
  logging.warning("%s (%d in a row).", text, count)


def summarize(steps: Sequence[PyTree]) -> dict[str, float]:
  """Means over the steps that were not skipped; groups by their sum and count.

  Groups that no sample of these steps was in are left out.
  """
  steps = [m for m in steps if not m["skipped"]]
  values = {
    name: float(np.mean([m[name] for m in steps])) if steps else float("nan")
    for name in ("loss", "grad_norm", "rate")
  }
  for name in steps[0]["sum"] if steps else ():
    count = sum(m["count"][name] for m in steps)
    if count:
      values[name] = float(sum(m["sum"][name] for m in steps) / count)
  return values

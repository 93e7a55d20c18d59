"""Metrics of the training steps, read one step late."""

import logging
from collections.abc import Callable, Sequence

import jax
import numpy as np

from ccl_jax.array_types import STREAMS, PyTree


class DelayedMetrics:
  """Queue of one step's metrics, so that the device never waits for the host.

  Metrics are copied to the host while the device runs the next step.
  """

  def __init__(self):
    self._pending: list[tuple[int, PyTree]] = []

  def push(self, step: int, metrics: PyTree) -> list[tuple[int, PyTree]]:
    """Adds the metrics of a dispatched step; drains those of the one before."""
    before = self.drain()
    self._pending.append((step, metrics))
    return before

  def drain(self) -> list[tuple[int, PyTree]]:
    """Waits for the pending metrics; returns [(step, metrics on the host)]."""
    pending, self._pending = self._pending, []
    return [(step, jax.device_get(metrics)) for step, metrics in pending]


def check_skipped(
  step: int,
  metrics: PyTree,
  limit: int,
  names_at: Callable[[int], Sequence[str]],
) -> None:
  """Warns about a step without an update; raises after too many in a row.

  Args:
    step: number of steps done with it.
    metrics: of that step, on the host; "skipped" counts them in a row.
    limit: number of skipped steps in a row that ends the run.
    names_at: returns the names of a batch's records, from the number of steps
      before it.

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
  """Returns the means over the steps that were not skipped.

  The mean of a group of samples is its sum divided by its count over all these
  steps; groups without a sample are left out. "samples/video" is the number of
  samples in a step whose video is trained.
  """
  steps = [m for m in steps if not m["skipped"]]
  values = {
    name: float(np.mean([m[name] for m in steps])) if steps else float("nan")
    for name in ("loss", "grad_norm", "learning_rate_factor")
  }
  for name in steps[0]["sum"] if steps else ():
    count = sum(m["count"][name] for m in steps)
    if count:
      values[name] = float(sum(m["sum"][name] for m in steps) / count)
  for stream in STREAMS if steps else ():
    counts = [
      count
      for m in steps
      for name, count in m["count"].items()
      if name.startswith(f"loss_t/{stream}/")
    ]
    if counts:
      values[f"samples/{stream}"] = float(sum(counts) / len(steps))
  return values

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.training.metrics import DelayedMetrics, check_skipped, summarize


class Recording:
  """An array that writes down when the host asks for it."""

  def __init__(self, name, events):
    self.name, self.events = name, events

  def __array__(self, dtype=None, copy=None):
    self.events.append(f"fetch {self.name}")
    return np.float32(self.name)


def test_a_step_is_fetched_once_the_next_one_is_dispatched():
  events, lagged = [], DelayedMetrics()
  for i in range(1, 4):
    events.append(f"dispatch {i}")
    found = lagged.push(i, {"loss": Recording(i, events)})
    assert [step for step, _ in found] == ([i - 1] if i > 1 else [])
    assert [float(m["loss"]) for _, m in found] == [s for s, _ in found]
  assert events == [
    "dispatch 1", "dispatch 2", "fetch 1", "dispatch 3", "fetch 2",
  ]  # fmt: skip
  assert [step for step, _ in lagged.drain()] == [3]
  assert events[-1] == "fetch 3"
  assert lagged.drain() == []
  assert lagged.push(4, {}) == []


def metrics(loss=1.0, skipped=0, counts=(), sums=()):
  names = ("loss/joint/video", "loss_t/video/0.2-0.4")
  return {
    "loss": loss, "grad_norm": 2 * loss, "learning_rate_factor": 0.1,
    "skipped": skipped,
    "sum": dict(zip(names, sums, strict=False)),
    "count": dict(zip(names, counts, strict=False)),
  }  # fmt: skip


def test_a_summary_has_means_over_steps_and_over_samples():
  steps = [metrics(1.0, 0, (1, 0), (5.0, 0.0)), metrics(2.0, 0, (3, 0), (3, 0))]
  on_device = jax.tree.map(jnp.asarray, steps)
  assert summarize(jax.device_get(on_device)) == pytest.approx({
    "loss": 1.5, "grad_norm": 3.0, "learning_rate_factor": 0.1,
    "loss/joint/video": 2.0, "samples/video": 0.0,
  })  # fmt: skip


def test_skipped_steps_are_in_no_mean():
  nan = float("nan")
  bad = metrics(nan, 1, (2, 2), (nan, nan))
  good = metrics(3.0, 0, (1, 1), (2.0, 4.0))
  assert summarize([bad, good]) == summarize([good])
  empty = summarize([bad])
  assert set(empty) == {"loss", "grad_norm", "learning_rate_factor"}
  assert np.isnan(list(empty.values())).all()


def names_at(step):
  return [f"clip_{step}_{row}" for row in range(2)]


def test_a_skipped_step_is_a_warning_with_its_records(caplog):
  def never(step):
    raise AssertionError("names cost time: ask for them only when needed")

  with caplog.at_level(logging.WARNING):
    check_skipped(7, metrics(), 3, never)
    assert not caplog.records
    check_skipped(7, metrics(float("nan"), 2), 3, names_at)
  (record,) = caplog.records
  for words in ("Step 7", "nan", "clip_6_0, clip_6_1", "2 in a row"):
    assert words in record.getMessage()


def test_too_many_in_a_row_end_the_run():
  with pytest.raises(FloatingPointError, match=r"Step 7.*clip_6_1.*3 in a row"):
    check_skipped(7, metrics(float("inf"), 3), 3, names_at)


def test_samples_of_each_stream_are_counted():
  def step(video, audio, skipped=0):
    counts = {"loss_t/video/0.0-0.2": 0, "loss_t/video/0.2-0.4": video}
    counts |= {"loss_t/audio/0.0-0.2": audio, "loss/joint/video": video}
    return metrics(skipped=skipped) | {
      "sum": dict.fromkeys(counts, 1.0), "count": counts
    }  # fmt: skip

  found = summarize([step(4, 1), step(2, 0), step(9, 9, skipped=1)])
  assert found["samples/video"] == 3.0 and found["samples/audio"] == 0.5

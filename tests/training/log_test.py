"""The lines of metrics.jsonl, and what TensorBoard gets."""

import json

import numpy as np
import pytest
from etils import epath
from matplotlib import axes
from tensorboardX.proto import event_pb2

from ccl_jax.training import log
from ccl_jax.training.throughput import StepCost
from tests import bucket
from tests.training import clocks
from tests.training.clocks import spend

WORK = StepCost(samples=4, tokens=600, flops=8e12, chips=2, peak=10e12)


@pytest.fixture(params=["disk", "bucket"])
def workdir(request, tmp_path):
  """A new workdir, on disk and in a bucket."""
  return epath.Path(tmp_path) if request.param == "disk" else bucket.make()


def metrics(loss=1.0, skipped=0):
  return {
    "loss": np.float32(loss), "grad_norm": np.float32(2),
    "learning_rate_factor": np.float32(1),
    "skipped": np.int32(skipped),
    "sum": {"loss/joint/video": loss}, "count": {"loss/joint/video": 1},
  }  # fmt: skip


def run(workdir, start, end, num_steps=9, every=2, is_lead=True, **bad):
  """A run whose first step takes 100 s, and each other one 2."""
  clock, time = clocks.make()
  logger = log.MetricWriter(
    workdir, start, num_steps, every, clock, lambda step: WORK, is_lead
  )
  for step in range(start + 1, end + 1):
    spend(clock, time, "data", 0.5)
    is_first = step == start + 1
    spend(
      clock, time, "compile" if is_first else "step", 100 if is_first else 1
    )
    time.seconds += 0.5
    loss, skipped = bad.get(f"step{step}", (step, 0))
    logger.add_step(step, metrics(loss, skipped))
    spend(clock, time, "eval", 50)
  logger.close()


def read(workdir):
  """metrics.jsonl, by a reader who takes no NaN."""

  def refuse(constant):
    raise AssertionError(f"{constant} is not JSON")

  text = (workdir / "metrics.jsonl").read_text()
  return [json.loads(x, parse_constant=refuse) for x in text.splitlines()]


def test_a_line_tells_what_the_run_did_since_the_last(workdir, capsys):
  run(workdir, 0, 9)
  lines = read(workdir)
  assert [line["step"] for line in lines] == [2, 4, 6, 8, 9]
  assert [line["loss"] for line in lines] == [1.5, 3.5, 5.5, 7.5, 9]
  assert [line["loss/joint/video"] for line in lines] == [1.5, 3.5, 5.5, 7.5, 9]
  for line in lines:  # the first step and the evaluations do not count
    assert line["step_seconds"] == pytest.approx(2)
    assert line["data_seconds"] == pytest.approx(0.5)
    assert line["tokens_per_second"] == pytest.approx(300)
    assert line["mfu"] == pytest.approx(0.2)
    assert line["skipped"] == 0
  # 8 steps of 1 s; 100 s, 9 evaluations of 50 s, 9 s of data and the rest.
  assert lines[-1]["goodput"] == lines[-1]["time/step"] == 8 / 517
  assert "goodput 1.4%: eval 79.4%" in capsys.readouterr().out
  assert (workdir / "loss.png").exists()


def test_the_first_step_alone_has_no_speed(workdir):
  run(workdir, 0, 2, every=1)
  first, second = read(workdir)
  assert "step_seconds" not in first and "goodput" in first
  assert second["step_seconds"] == pytest.approx(2)


def test_a_resumed_run_drops_the_lines_of_steps_that_it_makes_again(workdir):
  run(workdir, 0, 7, step3=(np.nan, 1))
  assert [line["step"] for line in read(workdir)] == [2, 4, 6, 7]
  run(workdir, 4, 9)
  lines = read(workdir)
  assert [line["step"] for line in lines] == [2, 4, 6, 8, 9]
  assert [line["skipped"] for line in lines] == [0, 1, 1, 1, 1]
  # A line of held-out losses, which has no count, may be a step's last.
  with (workdir / "metrics.jsonl").open("a") as file:
    file.write('{"step": 9, "held_out/loss": 1.0}\n')
  run(workdir, 9, 11)
  assert read(workdir)[-1]["skipped"] == 1
  boards = list((workdir / "tensorboard").iterdir())
  assert all(path.name.startswith("events.") for path in boards)


def test_what_is_not_finite_is_null_and_counted(workdir):
  bad = {"step3": (np.nan, 1), "step4": (np.inf, 2), "step5": (np.nan, 3)}
  run(workdir, 0, 7, **bad)
  lines = {line["step"]: line for line in read(workdir)}
  assert [lines[s]["skipped"] for s in (2, 4, 6, 7)] == [0, 2, 3, 3]
  assert lines[4]["loss"] is None and lines[4]["grad_norm"] is None
  assert "loss/joint/video" not in lines[4]
  assert lines[6]["loss"] == 6  # of the step that was made
  assert lines[7]["loss"] == 7


def test_held_out_losses_are_drawn_beside_those_of_training(
  tmp_path, monkeypatch
):
  lines = [
    {"step": i, "loss": 1.0 / i, "loss/joint/video": 2.0, "loss_t/video/0": 3.0}
    for i in range(1, 5)
  ]
  lines += [
    {"step": 2, "held_out/loss": 4.0, "held_out/loss/joint/video": None},
    {"step": 4, "held_out/loss": 3.0, "held_out/loss/joint/video": 5.0},
  ]
  drawn = {}
  monkeypatch.setattr(
    axes.Axes, "plot",
    lambda self, x, y, style, *, label, color, **rest: drawn.update(
      {label: (list(x), list(y), style, color)}
    ),
  )  # fmt: skip
  monkeypatch.setattr(axes.Axes, "legend", lambda self, **rest: None)
  log.plot_losses(lines, tmp_path / "loss.png")
  assert drawn == {
    "loss": ([1, 2, 3, 4], [1.0, 1 / 2, 1 / 3, 1 / 4], "-", "C0"),
    "loss/joint/video": ([1, 2, 3, 4], [2.0] * 4, "-", "C1"),
    "held_out/loss": ([2, 4], [4.0, 3.0], "--", "C0"),
    "held_out/loss/joint/video": ([4], [5.0], "--", "C1"),
  }


def test_the_value_of_a_step_is_that_of_its_lines(workdir):
  clock, _ = clocks.make()
  for is_lead in (True, False):
    logger = log.MetricWriter(
      workdir, 0, 9, 1, clock, lambda step: WORK, is_lead
    )
    logger.write_scalars(3, {"loss": 2.0, "held_out/loss": float("nan")})
    logger.write_scalars(3, {"held_out/loss/joint/video": 4.0})
    assert logger.value_at(3, "loss") == 2.0
    assert logger.value_at(3, "held_out/loss/joint/video") == 4.0
    assert logger.value_at(3, "held_out/loss") is None
    assert logger.value_at(4, "loss") is None
    logger.close()


def test_only_line_feeds_end_a_line(workdir):
  workdir.mkdir(exist_ok=True)
  text = '{"step": 1, "a": "b\u2028c\u0085"}\n{"step": 2}\n{"st'
  (workdir / "metrics.jsonl").write_text(text)
  assert [line["step"] for line in log.read_metrics(workdir)] == [1, 2]


def test_half_a_line_of_a_killed_run_is_dropped(workdir):
  run(workdir, 0, 4)
  path = workdir / "metrics.jsonl"
  path.write_text(path.read_text() + '{"step": 5, "lo')
  assert [line["step"] for line in log.read_metrics(workdir)] == [2, 4]
  run(workdir, 4, 6)
  assert [line["step"] for line in read(workdir)] == [2, 4, 6]


def test_only_the_lead_writes(workdir, capsys):
  workdir = workdir / "run"
  run(workdir, 0, 3, is_lead=False)
  assert not workdir.exists()
  assert capsys.readouterr() == ("", "")


def test_tensorboard_has_the_numbers_of_the_lines(tmp_path):
  run(epath.Path(tmp_path), 0, 4, step3=(np.nan, 1), step4=(np.nan, 2))
  (path,) = (tmp_path / "tensorboard").iterdir()
  data, found = path.read_bytes(), {}
  while data:  # records: 8 bytes of length, checksum, event, checksum
    length = int.from_bytes(data[:8], "little")
    event = event_pb2.Event.FromString(data[12 : 12 + length])
    data = data[16 + length :]
    for value in event.summary.value:
      found[event.step, value.tag] = value.simple_value
  (first, second) = read(tmp_path)
  expected = {
    (line["step"], name): value
    for line in (first, second)
    for name, value in line.items()
    if name != "step" and value is not None
  }
  assert found == pytest.approx(expected)


def test_lines_reach_a_bucket_while_the_run_goes_on():
  workdir = bucket.make()
  clock, _ = clocks.make()
  logger = log.MetricWriter(workdir, 0, 9, 1, clock, lambda step: WORK)
  logger.write_scalars(1, {"loss": 1.0})
  assert not (workdir / "metrics.jsonl").exists()
  logger.flush()
  assert [line["step"] for line in read(workdir)] == [1]
  logger.close()

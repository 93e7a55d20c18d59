"""Logs of a run: progress bar, TensorBoard, metrics.jsonl and loss.png.

`metrics.jsonl` has one line per logged step; a resumed run drops the lines
after the step it resumes from, so that the curve is that of one run. A line has
these values, and TensorBoard has them under the same names:

    loss, grad_norm           means over the steps since the last line
    learning_rate_factor      mean factor of the schedule: 1 at the peak rates;
                              it depends on updates, not on skipped steps
    loss/TASK/STREAM          mean over the samples of a task in these steps
    loss_t/STREAM/0.2-0.4     mean over samples with a noise time in that fifth
    samples/STREAM            samples in a step whose stream is trained
    held_out/loss...          losses of held-out clips: see `held_out`
    held_out/share/TASK/EAC, onset_F1
                              share of the way from blind generators to the
                              codecs' ceiling, on held-out clips of a synthetic
                              world: see `generation.held_out_shares`
    skipped                   steps without an update, since the run's start
    step_seconds, data_seconds, steps_, samples_, tokens_per_second,
    tflops_per_chip, mfu      speed since the last line: see `throughput`
    hbm_gib, hbm_peak_gib     of the fullest device of this host
    weight/NAME, epochs/NAME  of each data set in training
    goodput, time/EVENT       shares of the process's wall time: see `goodput`

All losses are means over the steps that made an update, and null if none did;
other values that are not finite are null too. Unknown values, such as the MFU
of an unknown chip or the memory of a CPU, are left out.

A workdir in a bucket is written to once a minute, from a local copy.
"""

import json
from collections.abc import Callable, Mapping

import numpy as np
import tensorboardX
import tqdm
from etils import epath

from ccl_jax.array_types import PyTree
from ccl_jax.storage.files import BucketMirror, naming_errors, replacing
from ccl_jax.training.goodput import Goodput
from ccl_jax.training.metrics import summarize
from ccl_jax.training.throughput import StepCost, memory_metrics, speed_metrics

HELD_OUT_PREFIX = "held_out/"  # before the names of losses on held-out clips

Line = dict[str, int | float | None]


class MetricWriter:
  """Writer of a run's metrics; its `board` takes images and sounds too.

  Args:
    workdir: on disk or in a bucket.
    start: step that this process resumes from.
    num_steps: last step of the run.
    every_steps: steps between two lines.
    clock: of this process.
    cost_at: returns the cost of a step, from the number of steps before it.
    is_lead: whether this process writes; in the others nothing happens.
    progress_at: returns further values of a step's line.
  """

  def __init__(
    self,
    workdir: epath.PathLike,
    start: int,
    num_steps: int,
    every_steps: int,
    clock: Goodput,
    cost_at: Callable[[int], StepCost],
    is_lead: bool = True,
    progress_at: Callable[[int], Mapping[str, float]] = lambda step: {},
  ):
    self._every_steps, self._clock, self._cost_at = every_steps, clock, cost_at
    self._costs: list[StepCost] = []
    self._is_lead, self._start, self._num_steps = is_lead, start, num_steps
    self._progress_at = progress_at
    self._recent: list[PyTree] = []
    self._skipped, self._before = 0, clock.seconds()
    self._newest: tuple[int, dict[str, float]] = (start, {})
    self._open_files(epath.Path(workdir))
    self.bar = tqdm.tqdm(
      total=num_steps, initial=start, unit="step", smoothing=0.1, mininterval=1,
      disable=not is_lead,
    )  # fmt: skip

  def add_step(self, step: int, metrics: PyTree) -> None:
    """Adds a step's metrics, on the host; writes a line every `every_steps`.

    The first step of a process compiles: it does not count for the speed.
    """
    self.bar.update(1)
    self._step = step
    self._recent.append(metrics)
    self._skipped += bool(metrics["skipped"])
    self._costs.append(self._cost_at(step - 1))
    if step == self._start + 1:
      self._costs, self._before = [], self._clock.seconds()
    if step % self._every_steps == 0 or step == self._num_steps:
      self._end_window()

  def write_scalars(self, step: int, values: Mapping[str, int | float]) -> None:
    """Writes a line of metrics.jsonl, and the finite values to TensorBoard."""
    line = {k: v if np.isfinite(v) else None for k, v in values.items()}
    before = self._newest[1] if step == self._newest[0] else {}
    self._newest = step, before | line
    if not self._is_lead:
      return
    with naming_errors(self._lines), self._lines.open("a") as file:
      file.write(json.dumps({"step": step} | line, allow_nan=False) + "\n")
    for name, value in line.items():
      if value is not None:
        self.board.add_scalar(name, value, step)
    self._mirror.copy_if_due()

  def value_at(self, step: int, name: str) -> float | None:
    """Returns a finite value of the last step's lines, if there is one."""
    return self._newest[1].get(name) if step == self._newest[0] else None

  def flush(self) -> None:
    """Writes buffered values, also to a workdir in a bucket."""
    self.board.flush()
    self._mirror.copy()

  def close(self) -> None:
    """Writes the last line, draws loss.png, and prints the goodput."""
    if self._recent:
      self._end_window()
    self.bar.close()
    self.board.close()
    if self._is_lead:
      local = self._mirror.local
      plot_losses(read_metrics(local), local / "loss.png")
      print(self._clock.summary())
    self._mirror.close()

  def _end_window(self) -> None:
    """Writes the line of the steps since the last one."""
    now, shares = self._clock.seconds(), self._clock.shares()
    values = summarize(self._recent) | {"skipped": self._skipped}
    values |= speed_metrics(self._before, now, self._costs)
    values |= memory_metrics() | self._progress_at(self._step)
    values |= {"goodput": shares["step"]}
    values |= {f"time/{event}": share for event, share in shares.items()}
    self.write_scalars(self._step, values)
    self.bar.set_postfix_str(f"loss {values['loss']:.3f}", refresh=False)
    self._recent, self._costs, self._before = [], [], now

  def _open_files(self, workdir: epath.PathLike) -> None:
    self._mirror = BucketMirror(workdir)
    self.board = tensorboardX.SummaryWriter(
      str(self._mirror.local / "tensorboard"),
      purge_step=self._start + 1 if self._start else None,
      flush_secs=30,
      write_to_disk=self._is_lead,
    )
    if not self._is_lead:
      return
    keep = [m for m in read_metrics(workdir) if m["step"] <= self._start]
    # The line of a held-out loss has no count of skipped steps.
    counts = (m["skipped"] for m in reversed(keep) if "skipped" in m)
    self._skipped = int(next(counts, 0))
    self._lines = self._mirror.local / "metrics.jsonl"
    with replacing(self._lines) as partial:
      partial.write_text("".join(json.dumps(m) + "\n" for m in keep))


def read_metrics(workdir: epath.PathLike) -> list[Line]:
  """Returns the lines of a run's metrics.jsonl; none of a new run.

  A last line that a killed run did not finish is left out.
  """
  path = epath.Path(workdir) / "metrics.jsonl"
  if not path.exists():
    return []
  text = path.read_text()
  complete = text[: text.rfind("\n") + 1]
  return [json.loads(line) for line in complete.split("\n")[:-1]]


def plot_losses(metrics: list[Line], path: epath.PathLike) -> None:
  """Plots the loss of every task and stream over the steps.

  Those of held-out clips are dashed, in the colour of the same training loss.
  """
  from matplotlib.figure import Figure

  figure = Figure(figsize=(8, 5), layout="constrained")
  axes = figure.subplots()
  found = {k for m in metrics for k, v in m.items() if v is not None}
  names = {
    k for k in found if k.removeprefix(HELD_OUT_PREFIX).split("/")[0] == "loss"
  }
  losses = sorted({k.removeprefix(HELD_OUT_PREFIX) for k in names})
  for name in sorted(names, key=lambda k: (k.startswith(HELD_OUT_PREFIX), k)):
    loss = name.removeprefix(HELD_OUT_PREFIX)
    points = [(m["step"], m[name]) for m in metrics if m.get(name) is not None]
    axes.plot(
      *zip(*points, strict=True), "-" if name == loss else "--", label=name,
      color=f"C{losses.index(loss)}", linewidth=2 if loss == "loss" else 1,
    )  # fmt: skip
  axes.set(xlabel="step", ylabel="mean squared error of the velocity")
  axes.grid(alpha=0.3)
  if names:
    axes.legend(fontsize=8, ncols=1 + (len(names) > len(losses)))
  with replacing(path) as partial:
    figure.savefig(partial, format="png", dpi=120)

"""What a run tells: a progress bar, TensorBoard, metrics.jsonl and loss.png.

`metrics.jsonl` has one line per logged step; a resumed run drops the lines
after the step it resumes from, so that a curve is what one run would give.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
import tensorboardX
import tqdm
from jaxtyping import Float, UInt8

from ccl_jax.files import replacing
from ccl_jax.types import PyTree


def summarize(steps: list[PyTree]) -> dict[str, float]:
  """Means over steps; "loss/TASK/STREAM" is the mean over samples of a task.

  Tasks that no sample of these steps had are left out.
  """
  steps = jax.device_get(steps)
  plain = {"loss", "grad_norm", "rate"}
  values = {k: float(np.mean([m[k] for m in steps])) for k in sorted(plain)}
  for name in steps[0]["sum"]:
    count = sum(m["count"][name] for m in steps)
    if count:
      values[f"loss/{name}"] = float(sum(m["sum"][name] for m in steps) / count)
  return values


class Log:
  """Writes a run's scalars and media; `start` is the step it resumes from."""

  def __init__(self, workdir: Path, start: int, num_steps: int):
    self.workdir, self.lines = workdir, workdir / "metrics.jsonl"
    keep = [m for m in read_metrics(workdir) if m["step"] <= start]
    with replacing(self.lines) as partial:
      partial.write_text("".join(json.dumps(m) + "\n" for m in keep))
    self.board = tensorboardX.SummaryWriter(
      str(workdir / "tensorboard"), purge_step=start + 1 if start else None
    )
    self.bar = tqdm.tqdm(
      total=num_steps, initial=start, unit="step", smoothing=0.1, mininterval=1
    )

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """One line of metrics.jsonl, and TensorBoard.

    Raises:
      FloatingPointError: the loss or the gradient is not finite.
    """
    bad = [k for k, v in values.items() if not np.isfinite(v)]
    if bad:
      raise FloatingPointError(
        f"Step {step}: {', '.join(bad)} not finite. The last checkpoint is"
        " intact; lower the learning rate or look at the data."
      )
    with self.lines.open("a") as file:
      file.write(json.dumps({"step": step, **values}) + "\n")
    for name, value in values.items():
      self.board.add_scalar(name, value, step)
    if "loss" in values:
      self.bar.set_postfix_str(f"loss {values['loss']:.3f}", refresh=False)

  def picture(self, name: str, image: UInt8[np.ndarray, "y x 3"], step: int):
    """An image in TensorBoard."""
    self.board.add_image(name, image, step, dataformats="HWC")

  def sound(
    self, name: str, wave: Float[np.ndarray, " s"], rate: int, step: int
  ):
    """A sound in TensorBoard."""
    self.board.add_audio(name, wave, step, sample_rate=rate)

  def close(self) -> None:
    """Flushes everything and draws loss.png."""
    self.bar.close()
    self.board.close()
    plot_losses(read_metrics(self.workdir), self.workdir / "loss.png")


def read_metrics(workdir: Path) -> list[dict[str, float]]:
  """The lines of a run's metrics.jsonl; none for a new run."""
  path = workdir / "metrics.jsonl"
  if not path.exists():
    return []
  return [json.loads(line) for line in path.read_text().splitlines()]


def plot_losses(metrics: list[dict[str, float]], path: Path) -> None:
  """The loss of every task and stream against the step."""
  from matplotlib.figure import Figure

  figure = Figure(figsize=(8, 5), layout="constrained")
  axes = figure.subplots()
  names = sorted({k for m in metrics for k in m if k.startswith("loss")})
  for name in names:
    points = [(m["step"], m[name]) for m in metrics if name in m]
    width = 2 if name == "loss" else 1
    axes.plot(*zip(*points, strict=True), label=name, linewidth=width)
  axes.set(xlabel="step", ylabel="mean squared error of the velocity")
  axes.grid(alpha=0.3)
  if names:
    axes.legend(fontsize=8)
  with replacing(path) as partial:
    figure.savefig(partial, format="png", dpi=120)

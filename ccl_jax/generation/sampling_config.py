"""The `sampling` section of a config: how latents are sampled."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ccl_jax.config import check_value
from ccl_jax.diffusion import (
  flow,
  guidance,
  guidance_transforms,
  phases,
  solvers,
)
from ccl_jax.diffusion.tasks import InferenceTask


def _option(default: Any, help: str) -> Any:
  return dataclasses.field(default=default, metadata={"help": help})


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
  """The `sampling` section; each field's `help` describes it.

  Raises:
    ValueError: a value that is unknown or out of range.
  """

  solver: str = _option("unipc", "Solver: unipc or euler.")
  num_inference_steps: int = _option(50, "Steps from noise to latents.")
  shift: float = _option(5.0, "Shift of the times; above 1 towards noise.")
  audio_shift: float | None = _option(
    None, "Shift of the audio's times; as shift if unset."
  )
  guidance: str = _option(
    "ucg2",
    "Guidance rule: none, text, ucg2, ucg3, ucg3_text_first, multimodal, sync.",
  )
  video_guidance_scale: float = _option(
    4.0, "Guidance scale of the video, for its text in rules of two scales; 1"
    " is no guidance.",
  )  # fmt: skip
  audio_guidance_scale: float = _option(
    3.0, "Guidance scale of the audio, likewise; 1 is no guidance."
  )
  cross_guidance_scale: float = _option(
    2.5, "Guidance scale of the other stream, in rules of two scales."
  )
  audio_cross_guidance_scale: float | None = _option(
    None,
    "Guidance scale of the video in the audio's output; as"
    " cross_guidance_scale if unset.",
  )
  guidance_low: float = _option(
    0.0, "Lowest sigma with guidance (0 is data, 1 noise)."
  )
  guidance_high: float = _option(1.0, "Highest sigma with guidance.")
  guidance_every: int = _option(
    1, "Guides only one of every N steps of those between guidance_low and"
    " guidance_high; the others run the prompt's pass alone.",
  )  # fmt: skip
  guidance_rescale: float = _option(
    0.0, "Rescales the guided velocity to the standard deviation of the"
    " conditional one: 0 not at all, 1 fully.",
  )  # fmt: skip
  guidance_transform: str = _option(
    "none", "How the terms of the rule are added: none (as it says), cfg_zero"
    " (CFG-Zero*) or apg (adaptive projected guidance).",
  )  # fmt: skip
  apg_eta: float = _option(
    0.0, "Share of the parallel part that apg keeps, from 0 to 1."
  )
  apg_norm_threshold: float = _option(
    0.0, "Longest difference of predicted data that apg adds; 0 for no limit."
  )
  apg_momentum: float = _option(
    0.0, "Share of the difference of the guided step before that apg adds,"
    " between -1 and 1; its paper takes -0.5 or less. 0 for none.",
  )  # fmt: skip
  zero_init_steps: int = _option(
    0, "First steps at which the velocity is 0, for CFG-Zero*: one or two of"
    " 50.",
  )  # fmt: skip
  batch_passes: bool = _option(
    True, "Run the passes of a step as one batch; else in turn, in less memory."
  )
  cache_reference: bool = _option(
    True, "Run a reference stream once and keep its keys and values; else at"
    " every step, in less memory.",
  )  # fmt: skip

  def __post_init__(self):
    guidance.rule(self.guidance)
    solvers.check_solver(self.solver)
    steps, low, high = self.num_inference_steps, *self.window
    # Name -> whether it is valid, and what is.
    checks = {
      "num_inference_steps": (steps >= 1, "at least 1"),
      "guidance_every": (self.guidance_every >= 1, "at least 1 (every step)"),
      "guidance_rescale": (0 <= self.guidance_rescale <= 1, "from 0 to 1"),
      "zero_init_steps": (
        0 <= self.zero_init_steps < steps, f"from 0 to {steps - 1}"
      ),
      "apg_eta": (self.apg_eta >= 0, "at least 0"),
      "apg_norm_threshold": (self.apg_norm_threshold >= 0, "at least 0"),
      "apg_momentum": (-1 < self.apg_momentum < 1, "between -1 and 1"),
    }  # fmt: skip
    for name, value in dataclasses.asdict(self).items():
      if name.endswith("shift") and value is not None:
        checks[name] = (0 < value < math.inf, "a positive, finite number")
      elif name.endswith("_scale") and value is not None:
        checks[name] = (value >= 0, "at least 0")
    for name, check in checks.items():
      check_value(f"sampling.{name}", getattr(self, name), *check)
    if not 0 <= low <= high <= 1:
      raise ValueError(
        f"sampling.guidance_low={low} and guidance_high={high}: expected"
        " 0 <= low <= high <= 1."
      )
    _ = self.transform  # raises ValueError
    if self.apg_momentum and self.guidance_transform != "apg":
      raise ValueError(
        f"sampling.apg_momentum is {self.apg_momentum}, but guidance_transform"
        f" is {self.guidance_transform}: expected apg."
      )

  @property
  def transform(self) -> guidance_transforms.Transform | None:
    """Returns how the terms of the rule are added; None for as it says."""
    return guidance_transforms.make_transform(
      self.guidance_transform,
      self.apg_eta,
      self.apg_norm_threshold,
      self.apg_momentum,
    )

  @property
  def zero_above(self) -> dict[str, float] | None:
    """Returns stream -> time from which on its velocity is 0, if any is."""
    if not self.zero_init_steps:
      return None
    last = slice(self.zero_init_steps - 1, self.zero_init_steps + 1)
    return {  # Between two steps, as a solver may round its times.
      s: float(np.mean(sigmas[last])) for s, sigmas in self.sigmas.items()
    }

  @property
  def scales(self) -> dict[str, dict[str, float]]:
    """Returns guidance scales: stream -> name in `guidance.guide` -> value."""
    own = {
      "video": self.video_guidance_scale,
      "audio": self.audio_guidance_scale,
    }
    cross = dict.fromkeys(own, self.cross_guidance_scale)
    if self.audio_cross_guidance_scale is not None:
      cross["audio"] = self.audio_cross_guidance_scale
    return {
      s: {"scale": x, "text": x, "cross": cross[s]} for s, x in own.items()
    }

  @property
  def shifts(self) -> dict[str, float]:
    """Returns stream -> the shift of its times."""
    audio = self.shift if self.audio_shift is None else self.audio_shift
    return {"video": self.shift, "audio": audio}

  def for_shapes(
    self, shapes: Mapping[str, Sequence[int]], clip: Sequence[int]
  ) -> "SamplingConfig":
    """Returns the settings for clips of another shape than the shift is for.

    Args:
      shapes: of their latents.
      clip: frames, y and x of those that the shift is for; () is of all.
    """
    if not clip:
      return self
    factors = flow.shift_factors(shapes, clip)
    video, audio = (x * factors[s] for s, x in self.shifts.items())
    return dataclasses.replace(self, shift=video, audio_shift=audio)

  @property
  def sigmas(self) -> dict[str, np.ndarray]:
    """Returns stream -> the sigmas of its steps."""
    return {
      s: solvers.schedule(self.num_inference_steps, shift)
      for s, shift in self.shifts.items()
    }

  @property
  def window(self) -> tuple[float, float]:
    """Returns the lowest and the highest guided sigma."""
    return self.guidance_low, self.guidance_high

  def num_guided(self, task: InferenceTask) -> int:
    """Returns the number of steps with guidance."""
    iterated = [s for s in task.streams if s not in self.cached(task)]
    sigmas = solvers.leading_sigma({s: self.sigmas[s] for s in iterated})
    runs = phases.split(sigmas, self.window, self.guidance_every)
    return phases.count(runs, True)

  def cached(self, task: InferenceTask) -> tuple[str, ...]:
    """Returns the reference streams that run once."""
    return task.given if self.cache_reference else ()

"""The training objective: from a batch of latents to examples with targets.

`make_training_example` draws everything random (task, times, noise, dropped
text, given first frames); `loss.loss` compares the model's velocities with the
targets:

    example = make_training_example(key, batch, objective)
    prediction = model(example.x_t, example.t, example.text, example.route)
    value, metrics = loss(prediction, example, objective)
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Key

from ccl_jax.array_types import (
  STREAMS,
  Array,
  Bool,
  Float,
  Image,
  Int,
  Route,
  State,
  expand,
)
from ccl_jax.diffusion import flow, tasks
from ccl_jax.ops import noise_schedule

# A number, or stream -> its own; as pairs, which are hashable.
ByStream = int | float | Mapping[str, float] | tuple


@dataclass(frozen=True)
class Objective:
  """Settings of the objective. The paper gives only the probabilities.

  Attributes:
    time_shift: time shift, or stream -> its own, as time_mean and time_std; 5
      is Wan2.1's at 480p.
    time_shift_shape: frames, y and x of the clips that `time_shift` is meant
      for; for other clips it is scaled by sqrt(n / n0) (Esser et al. 2024), n
      the number of latents (for sound, of frames). () never scales.
    time_mean, time_std: of the normal inside the logit-normal time.
    time_distribution: "logit_normal"; or "ddpm", the times of its steps, each
      as likely: then shift, mean and deviation do not count.
    error: quantity of the squared error, "velocity" or "noise".
    video_weight, audio_weight: lv and la, 0.85 and 0.15 from Ovi.
    text_dropout: fraction of samples whose text is replaced by the null text.
    first_frame_probability: fraction of samples with generated video whose
      first latent frame is given; 0 keeps one time per sample.
    reference_probability: fraction of samples with generated video that have a
      reference picture, see `_add_reference`; 0 draws none.
    probabilities: of apart, a2v, v2a, joint.

  Raises:
    ValueError: a number is out of its range.
  """

  time_shift: ByStream = 5.0
  time_mean: ByStream = 0.0
  time_std: ByStream = 1.0
  video_weight: float = 0.85
  audio_weight: float = 0.15
  text_dropout: float = 0.1
  first_frame_probability: float = 0.0
  probabilities: tuple[float, ...] = tuple(t.probability for t in tasks.TASKS)
  time_shift_shape: tuple[int, ...] = ()
  reference_probability: float = 0.0
  time_distribution: str = "logit_normal"
  error: str = "velocity"

  def __post_init__(self):
    # A tuple, which is hashable: the objective is a static argument.
    object.__setattr__(self, "probabilities", tuple(self.probabilities))
    for name in ("time_shift", "time_mean", "time_std"):
      if isinstance(value := getattr(self, name), Mapping):
        object.__setattr__(self, name, tuple(value.items()))
      values = self._by_stream(name)
      numbers = [isinstance(x, int | float) for x in values.values()]
      if set(values) != set(STREAMS) or not all(numbers):
        raise ValueError(
          f"{name}={values} must be a number, or one for each of {STREAMS}."
        )
      low = -math.inf if name == "time_mean" else 0
      if not all(low < x < math.inf for x in values.values()):
        kind = "finite" if name == "time_mean" else "positive"
        raise ValueError(f"{name}={value} must be {kind}.")
    shape = tuple(self.time_shift_shape)
    object.__setattr__(self, "time_shift_shape", shape)
    if shape and (len(shape) != 3 or min(shape) < 1):
      raise ValueError(
        f"time_shift_shape={shape} must be (frames, y, x) in pixels, or ()."
      )
    for name in ("video_weight", "audio_weight"):
      if not 0 <= getattr(self, name) < math.inf:
        raise ValueError(
          f"{name}={getattr(self, name)} must not be negative or infinite."
        )
    for name in (
      "text_dropout", "first_frame_probability", "reference_probability",
    ):  # fmt: skip
      if not 0 <= getattr(self, name) <= 1:
        raise ValueError(f"{name}={getattr(self, name)} must be in [0, 1].")
    for name, known in (
      ("time_distribution", ("logit_normal", "ddpm")),
      ("error", ("velocity", "noise")),
    ):
      if (value := getattr(self, name)) not in known:
        raise ValueError(f"{name}={value!r} must be one of {', '.join(known)}.")
    p = self.probabilities
    if len(p) != len(tasks.TASKS) or min(p) < 0 or abs(sum(p) - 1) > 1e-6:
      raise ValueError(
        f"probabilities={p} must be {len(tasks.TASKS)} numbers >= 0 with sum 1,"
        f" for {', '.join(tasks.TASK_NAMES)}."
      )

  @property
  def times(self) -> dict[str, tuple[float, float, float]]:
    """Returns stream -> mean, standard deviation and shift of its times."""
    names = ("time_mean", "time_std", "time_shift")
    values = [self._by_stream(name) for name in names]
    return {s: tuple(each[s] for each in values) for s in STREAMS}

  def draw_time(
    self, stream: str, key: Key[Array, ""], shape: tuple[int, ...]
  ) -> Float[Array, " *dims"]:
    """Draws times of a stream."""
    if self.time_distribution == "ddpm":
      steps = jax.random.randint(key, shape, 0, noise_schedule.NUM_STEPS)
      return jnp.asarray(noise_schedule.STEP_TIMES, jnp.float32)[steps]
    mean, std, shift = self.times[stream]
    return flow.shift_time(flow.sample_time(key, shape, mean, std), shift)

  def _by_stream(self, name: str) -> dict[str, float]:
    value = getattr(self, name)
    if isinstance(value, tuple):
      return dict(value)
    # A flag may give a whole number.
    is_whole = isinstance(value, int)
    return dict.fromkeys(STREAMS, float(value) if is_whole else value)

  def for_shapes(self, shapes: Mapping[str, Sequence[int]]) -> "Objective":
    """Returns the objective of clips with latents of these shapes."""
    if not self.time_shift_shape:
      return self
    factors = flow.shift_factors(shapes, self.time_shift_shape)
    shifts = self._by_stream("time_shift")
    return replace(
      self, time_shift={s: x * factors[s] for s, x in shifts.items()}
    )

  def weight(self, stream: str) -> float:
    """Returns lv or la."""
    return {"video": self.video_weight, "audio": self.audio_weight}[stream]


class Example(NamedTuple):
  """A batch ready for the model, and the targets of its output.

  Attributes:
    x_t: noised state; clean latents where they are given.
    t: time of each stream, (b,), or (b, f, 1) for a video that may have a given
      first frame; 0 where clean.
    text: (b, l, d), the null text where it was dropped.
    route: who sees what and what is generated.
    target: velocity, noise - x0.
    loss_mask: bools that broadcast to the latents, true where there is loss.
    task: (b,) index into TASKS.
    image: reference pictures, if any are drawn.
  """

  x_t: State
  t: State
  text: Float[Array, "b l d"]
  route: Route
  target: State
  loss_mask: dict[str, Bool[Array, " b ..."]]
  task: Int[Array, " b"]
  image: Image | None = None


def make_training_example(
  key: Key[Array, ""], batch: dict[str, Any], objective: Objective
) -> Example:
  """Draws a training example; sample i depends on (key, i, batch[i]) only.

  Args:
    batch: `video` (b, f, h, w, c) and/or `audio` (b, m, c) latents, for each
      of them `has_video` / `has_audio` (b,) bool, `text` (b, l, d) and
      `null_text` (l, d).
  """
  task_key, time_key, noise_key, text_key, frame_key = jax.random.split(key, 5)
  text = batch["text"].astype(jnp.float32)
  b = len(text)
  x0 = {s: batch[s].astype(jnp.float32) for s in STREAMS if s in batch}
  has = [batch[f"has_{s}"] if s in x0 else jnp.zeros(b, bool) for s in STREAMS]
  task = tasks.draw_tasks(task_key, objective.probabilities, *has)
  route = tasks.route_of(task, *has)
  clean = _clean(frame_key, x0, route, objective.first_frame_probability)
  times = tasks.draw_times(time_key, route, task, objective.draw_time)
  t = {s: flow.mask_time(times[s], clean[s]) for s in x0}
  noise = flow.draw_noise(
    flow.sample_keys(noise_key, b), {s: x0[s].shape[1:] for s in x0}
  )
  dropped = _bernoulli(text_key, objective.text_dropout, b)
  example = Example(
    x_t={s: flow.interpolate(x0[s], noise[s], t[s]) for s in x0},
    t=t,
    text=jnp.where(dropped[:, None, None], batch["null_text"], text),
    route=route,
    target={s: noise[s] - x0[s] for s in x0},
    loss_mask={s: ~clean[s] for s in x0},
    task=task,
  )
  if objective.reference_probability > 0 and "video" in x0:
    # A key of its own: without pictures all other draws stay the same.
    key = jax.random.fold_in(key, len(STREAMS))
    return _add_reference(key, example, x0["video"], objective)
  return example


def _bernoulli(key, probability: float, batch: int):
  """Draws (b,) bools, each from its own sample's key."""
  keys = flow.sample_keys(key, batch)
  return jax.vmap(lambda key: jax.random.bernoulli(key, probability))(keys)


def _clean(key, x0: State, route: Route, first_frame_probability: float):
  """Returns masks of references, absent streams and given first frames."""
  clean = {s: expand(~route.is_generated[s], x0[s].ndim) for s in x0}
  if first_frame_probability > 0 and "video" in x0:
    b, f = x0["video"].shape[:2]
    given = _bernoulli(key, first_frame_probability, b)
    first = given[:, None] & (jnp.arange(f)[None] == 0)
    clean["video"] = clean["video"] | expand(first, 5)
  return clean


def _add_reference(
  key: Key[Array, ""],
  example: Example,
  video: Float[Array, "b f h w c"],
  objective: Objective,
) -> Example:
  """Gives some samples a latent frame of their own clip as reference picture.

  Half of them are the first, the only one that is encoded by itself as a
  picture is, the others any. There is no loss on it: it could be copied. A clip
  of one frame has none.
  """
  b, f = video.shape[:2]
  has_key, first_key, index_key = jax.random.split(key, 3)
  draw = jax.vmap(lambda key: jax.random.randint(key, (), 0, f))
  index = draw(flow.sample_keys(index_key, b))
  index = jnp.where(_bernoulli(first_key, 0.5, b), 0, index)
  has = _bernoulli(has_key, objective.reference_probability, b)
  has = has & example.route.is_generated["video"] & (f > 1)
  picture = jnp.take_along_axis(video, expand(index, 5), axis=1)
  picture = jnp.where(expand(has, 5), picture, 0.0)
  is_other = ~has[:, None] | (jnp.arange(f)[None] != index[:, None])
  loss_mask = example.loss_mask["video"] & expand(is_other, 5)
  return example._replace(
    loss_mask=example.loss_mask | {"video": loss_mask},
    image=Image(references=picture, has_references=has[:, None]),
  )

"""Tasks: what is generated, and who sees whom (dynamic context routing, 4.2.2).

    task     p    t_video  t_audio   video sees    audio sees    loss
    apart   .10      t1       t2     context       context       both
    a2v     .15      t        0      context + a   context       video
    v2a     .15      0        t      context       context + v   audio
    joint   .60      t        t      context + a   context + v   both

"context" are the learnable context tokens, always visible; a and v are the
other stream's tokens. A stream at time 0 that is not generated is a
reference. `apart` trains text/image-to-video and text-to-audio at once, the
streams being independent; a sample that lacks a stream can only be `apart`.
Tasks differ per sample within one batch: they are data, not code.

Generation uses the same rows: each inference task names its row and the streams
that take part.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Key

from ccl_jax.array_types import (
  STREAMS,
  Array,
  Bool,
  Float,
  Int,
  Route,
  State,
  expand,
)
from ccl_jax.diffusion import flow


@dataclass(frozen=True)
class Task:
  """One row of the table above."""

  name: str
  probability: float
  generated: tuple[str, ...]
  sees_other: tuple[str, ...]
  shared_time: bool = False


TASKS = (
  Task("apart", 0.10, generated=STREAMS, sees_other=()),
  Task("a2v", 0.15, generated=("video",), sees_other=("video",)),
  Task("v2a", 0.15, generated=("audio",), sees_other=("audio",)),
  Task("joint", 0.60, generated=STREAMS, sees_other=STREAMS, shared_time=True),
)
TASK_NAMES = tuple(task.name for task in TASKS)


def lookup(
  column: Callable[[Task], bool], task: Int[Array, " b"]
) -> Bool[Array, " b"]:
  """Returns a boolean column of the table for each sample's task."""
  return jnp.asarray(np.array([column(row) for row in TASKS]))[task]


def draw_tasks(
  key: Key[Array, ""],
  probabilities: tuple[float, ...],
  has_video: Bool[Array, " b"],
  has_audio: Bool[Array, " b"],
) -> Int[Array, " b"]:
  """Draws indices into TASKS; a sample that lacks a stream gets `apart`."""
  logits = jnp.log(jnp.asarray(probabilities))
  keys = flow.sample_keys(key, len(has_video))
  task = jax.vmap(lambda key: jax.random.categorical(key, logits))(keys)
  return jnp.where(has_video & has_audio, task, TASK_NAMES.index("apart"))


def route_of(
  task: Int[Array, " b"],
  has_video: Bool[Array, " b"],
  has_audio: Bool[Array, " b"],
) -> Route:
  """Returns the route of each sample's task; absent streams are references."""
  has = {"video": has_video, "audio": has_audio}
  both = has_video & has_audio
  return Route(
    sees={
      s: lookup(lambda row, s=s: s in row.sees_other, task) & both
      for s in STREAMS
    },
    is_generated={
      s: lookup(lambda row, s=s: s in row.generated, task) & has[s]
      for s in STREAMS
    },
    exchanges=jnp.ones_like(both),
  )


def draw_times(
  key: Key[Array, ""],
  route: Route,
  task: Int[Array, " b"],
  draw_time: Callable[[str, Key[Array, ""], tuple[int, ...]], Array],
) -> dict[str, Float[Array, " b"]]:
  """Draws times: one draw for both streams in `joint`, else one for each.

  Streams that are not generated are at time 0.

  Args:
    draw_time: see `Objective.draw_time`; in `joint` both streams make theirs
      with the same key.
  """
  keys = flow.sample_keys(key, len(task))
  is_shared = lookup(lambda row: row.shared_time, task)

  def draw(stream, own):
    both = jax.vmap(lambda key: draw_time(stream, key, (2,)))(keys).T
    return both[0] if own == 0 else jnp.where(is_shared, *both)

  times = {"video": draw("video", 0), "audio": draw("audio", 1)}
  return {s: jnp.where(route.is_generated[s], times[s], 0.0) for s in STREAMS}


@dataclass(frozen=True)
class InferenceTask:
  """A task as users choose it: a row of TASKS and the streams that take part.

  Attributes:
    name: as users write it, "t2av".
    row: name of the training task whose route is used.
    streams: the streams of the state; the others' towers never run.
    first_frame: the first latent video frame is given.
    reference: an image may be given, as a reference picture of the video.
  """

  name: str
  row: str
  streams: tuple[str, ...]
  first_frame: bool = False
  reference: bool = False

  def route(self, batch: int) -> Route:
    """Returns the route, the same for all `batch` samples."""
    task = jnp.full((batch,), TASK_NAMES.index(self.row))
    return route_of(
      task, *(jnp.full((batch,), stream in self.streams) for stream in STREAMS)
    )

  @property
  def optional(self) -> tuple[str, ...]:
    """Returns the inputs that a user may provide, for models that read them."""
    return ("image",) * self.reference

  @property
  def inputs(self) -> tuple[str, ...]:
    """Returns the inputs that a user provides: "image", "audio", "video"."""
    return ("image",) * self.first_frame + self.given

  @property
  def given(self) -> tuple[str, ...]:
    """Returns the streams that are references: provided in full."""
    row = TASKS[TASK_NAMES.index(self.row)]
    return tuple(s for s in self.streams if s not in row.generated)

  @property
  def generated(self) -> tuple[str, ...]:
    """Returns the streams that are generated."""
    return tuple(s for s in self.streams if s not in self.given)

  def clean(self, state: State) -> dict[str, Bool[Array, " b ..."]]:
    """Returns masks of given latents, for the streams that have any.

    A reference: (b, 1, ...), all true. The first frame: (b, f, 1, 1, 1).
    """
    masks = {
      s: jnp.ones((len(state[s]),) + (1,) * (state[s].ndim - 1), bool)
      for s in self.given
    }
    if self.first_frame:
      b, f = state["video"].shape[:2]
      first = jnp.broadcast_to(jnp.arange(f) == 0, (b, f))
      masks["video"] = expand(first, 5)
    return masks


INFERENCE_TASKS = {
  task.name: task
  for task in (
    InferenceTask("t2av", "joint", STREAMS),
    InferenceTask("i2av", "joint", STREAMS, first_frame=True),
    InferenceTask("t2v", "apart", ("video",), reference=True),
    InferenceTask("i2v", "apart", ("video",), first_frame=True),
    InferenceTask("t2a", "apart", ("audio",)),
    InferenceTask("a2v", "a2v", STREAMS, reference=True),
    InferenceTask("v2a", "v2a", STREAMS),
  )
}


def untrained(
  task: InferenceTask, objective: Mapping[str, Any], has_picture: bool = False
) -> str:
  """Returns which part of a task a run has never trained, or "".

  Args:
    objective: the run's section; with no key nothing is known of it.
    has_picture: the task has a reference picture.
  """
  index, key = TASK_NAMES.index(task.row), "first_frame_probability"
  missing = []
  if objective.get("probabilities") and not objective["probabilities"][index]:
    missing.append(
      f"'{task.row}' (entry {index} of objective.probabilities is 0)"
    )
  if task.first_frame and objective.get(key) == 0:
    missing.append(
      f"first frames (objective.{key} is 0; the clip leaves the image at once)"
    )
  if has_picture and not objective.get("reference_probability", 1):
    missing.append("reference pictures (objective.reference_probability is 0)")
  if not missing:
    return ""
  return (
    f"{task.name}: this run was not trained on {' nor on '.join(missing)}:"
    " train one where that is more than 0."
  )


def inference_task(name: str) -> InferenceTask:
  """Returns the inference task called `name`; a ValueError lists the names."""
  if name not in INFERENCE_TASKS:
    raise ValueError(
      f"Unknown task '{name[:40]}', expected one of"
      f" {', '.join(INFERENCE_TASKS)}."
    )
  return INFERENCE_TASKS[name]


def possible_tasks(
  streams: Sequence[str], conditions: Sequence[str]
) -> tuple[str, ...]:
  """Returns the names of the tasks for inference that a model can do.

  It has their streams, and takes none that they generate as a condition only.

  Args:
    streams: of the model.
    conditions: those of them that it takes as a condition only.
  """
  return tuple(
    name
    for name, task in INFERENCE_TASKS.items()
    if set(streams).issuperset(task.streams)
    and set(conditions).isdisjoint(task.generated)
  )


def check_task(
  task: InferenceTask, streams: Sequence[str], conditions: Sequence[str]
) -> None:
  """Raises ValueError if not one of the `possible_tasks` of a model."""
  possible = possible_tasks(streams, conditions)
  if task.name in possible:
    return
  lacking = sorted(set(task.streams) - set(streams))
  given = sorted(set(task.generated) & set(conditions))
  why = (
    f"has no {', '.join(lacking)}" if lacking
    else f"takes {', '.join(given)} as a condition only"
  )  # fmt: skip
  raise ValueError(
    f"task {task.name}: this model {why}. Expected one of"
    f" {', '.join(possible)}."
  )

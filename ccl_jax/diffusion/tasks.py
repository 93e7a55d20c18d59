"""Tasks: who is generated, who sees whom (dynamic context routing, 4.2.2).

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

Generation uses the same rows: each inference task names the row it runs and
the streams that take part.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Key

from ccl_jax.array_types import STREAMS, Array, Bool, Float, Int, Route, State
from ccl_jax.diffusion import flow


@dataclass(frozen=True)
class Task:
  """One row of the table above."""

  name: str
  probability: float
  video_is_generated: bool
  audio_is_generated: bool
  video_sees_audio: bool
  audio_sees_video: bool
  shared_time: bool


TASKS = (
  #     name    p      v gen  a gen  v<-a   a<-v   one t
  Task("apart", 0.10, True, True, False, False, False),
  Task("a2v", 0.15, True, False, True, False, False),
  Task("v2a", 0.15, False, True, False, True, False),
  Task("joint", 0.60, True, True, True, True, True),
)
TASK_NAMES = tuple(task.name for task in TASKS)


def lookup(column: str, task: Int[Array, " b"]) -> Bool[Array, " b"]:
  """The boolean `column` of the table, for each sample's task."""
  return jnp.asarray(np.array([getattr(row, column) for row in TASKS]))[task]


def draw_tasks(
  key: Key[Array, ""],
  probabilities: tuple[float, ...],
  has_video: Bool[Array, " b"],
  has_audio: Bool[Array, " b"],
) -> Int[Array, " b"]:
  """Indices into TASKS; a sample that lacks a stream gets `apart`."""
  logits = jnp.log(jnp.asarray(probabilities))
  keys = flow.sample_keys(key, len(has_video))
  task = jax.vmap(lambda key: jax.random.categorical(key, logits))(keys)
  return jnp.where(has_video & has_audio, task, TASK_NAMES.index("apart"))


def route_of(
  task: Int[Array, " b"],
  has_video: Bool[Array, " b"],
  has_audio: Bool[Array, " b"],
) -> Route:
  """The route of each sample's task; an absent stream is not generated."""
  both = has_video & has_audio
  return Route(
    video_sees_audio=lookup("video_sees_audio", task) & both,
    audio_sees_video=lookup("audio_sees_video", task) & both,
    video_is_generated=lookup("video_is_generated", task) & has_video,
    audio_is_generated=lookup("audio_is_generated", task) & has_audio,
    exchanges=jnp.ones_like(both),
  )


def draw_times(
  key: Key[Array, ""],
  route: Route,
  task: Int[Array, " b"],
  mean: float,
  std: float,
  shift: float,
) -> dict[str, Float[Array, " b"]]:
  """Shifted logit-normal times: one for both streams in `joint`, else two.

  Streams that are not generated are at time 0.
  """
  keys = flow.sample_keys(key, len(task))
  draw = jax.vmap(lambda key: flow.sample_time(key, (2,), mean, std))
  t_video, t_audio = flow.shift_time(draw(keys), shift).T
  t_audio = jnp.where(lookup("shared_time", task), t_video, t_audio)
  times = {"video": t_video, "audio": t_audio}
  return {s: jnp.where(route.is_generated(s), times[s], 0.0) for s in STREAMS}


@dataclass(frozen=True)
class InferenceTask:
  """What a user asks for: a row of TASKS and the streams that take part.

  Attributes:
    row: name of the training task whose route is used.
    streams: the streams of the state; the others' towers never run.
    first_frame: the first latent video frame is given.
  """

  row: str
  streams: tuple[str, ...]
  first_frame: bool = False

  def route(self, batch: int) -> Route:
    """The route, the same for all `batch` samples."""
    task = jnp.full((batch,), TASK_NAMES.index(self.row))
    return route_of(
      task, *(jnp.full((batch,), stream in self.streams) for stream in STREAMS)
    )

  @property
  def given(self) -> tuple[str, ...]:
    """The streams that are references, given as a whole."""
    row = TASKS[TASK_NAMES.index(self.row)]
    return tuple(
      s for s in self.streams if not getattr(row, f"{s}_is_generated")
    )

  @property
  def generated(self) -> tuple[str, ...]:
    """The streams that are generated."""
    return tuple(s for s in self.streams if s not in self.given)

  def clean(self, state: State) -> dict[str, Bool[Array, " b ..."]]:
    """Masks of what is given, for those streams only that have any of it.

    A reference: (b, 1, ...), all true. The first frame: (b, f, 1, 1, 1).
    """
    masks = {
      s: jnp.ones((len(state[s]),) + (1,) * (state[s].ndim - 1), bool)
      for s in self.given
    }
    if self.first_frame:
      b, f = state["video"].shape[:2]
      first = jnp.broadcast_to(jnp.arange(f) == 0, (b, f))
      masks["video"] = flow.expand(first, 5)
    return masks


INFERENCE_TASKS = {
  "t2av": InferenceTask("joint", ("video", "audio")),
  "i2av": InferenceTask("joint", ("video", "audio"), first_frame=True),
  "t2v": InferenceTask("apart", ("video",)),
  "i2v": InferenceTask("apart", ("video",), first_frame=True),
  "t2a": InferenceTask("apart", ("audio",)),
  "a2v": InferenceTask("a2v", ("video", "audio")),
  "v2a": InferenceTask("v2a", ("video", "audio")),
}


def inference_task(name: str) -> InferenceTask:
  """The inference task called `name`; ValueError lists the names."""
  if name not in INFERENCE_TASKS:
    raise ValueError(
      f"Unknown task '{name}', expected one of {', '.join(INFERENCE_TASKS)}."
    )
  return INFERENCE_TASKS[name]

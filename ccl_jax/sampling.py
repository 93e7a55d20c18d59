"""How latents are sampled: settings, and one compiled program for each task."""

import dataclasses
import functools

import jax
from flax import nnx

from ccl_jax.diffusion import guidance, sampler, tasks
from ccl_jax.models import joint
from ccl_jax.sharding import Layout
from ccl_jax.types import PyTree, State


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How to sample; `scale`s as in `diffusion.guidance`.

  Raises:
    ValueError: an unknown method or guidance, or no steps.
  """

  method: str = "unipc"
  steps: int = 50
  shift: float = 5.0
  guidance: str = "ucg2"
  video_scale: float = 4.0
  audio_scale: float = 3.0
  cross_scale: float = 2.5

  def __post_init__(self):
    guidance.row(self.guidance)
    sampler.schedule(self.steps, self.shift)
    if self.method not in sampler.SOLVERS:
      raise ValueError(
        f"Unknown sampler '{self.method}': {', '.join(sampler.SOLVERS)}."
      )

  @property
  def scales(self) -> dict[str, dict[str, float]]:
    """Scales by stream and name, for every row of guidance."""
    own = {"video": self.video_scale, "audio": self.audio_scale}
    return {
      s: {"scale": x, "text": x, "cross": self.cross_scale}
      for s, x in own.items()
    }


@functools.partial(
  jax.jit, static_argnames=("graph", "task", "sampling", "layout")
)
def sample_latents(
  params: PyTree,
  noise: State,
  given: State,
  condition: dict,
  *,
  graph: nnx.GraphDef,
  task: str,
  sampling: Sampling,
  layout: Layout,
) -> State:
  """Latents of the streams in `noise`; one compiled loop over the steps.

  On a mesh, every device gets all of them.

  Args:
    given: latents of the reference stream, or of the first frame.
    condition: text, negative (b, l, d), perhaps null latents: see `guidance`.
  """
  plan = tasks.inference_task(task)

  def velocity(state, t, condition):
    text, route = condition["text"], condition["route"]
    return joint.velocity(graph, params, state, t, text, route)

  batch = len(condition["text"])
  made = sampler.sample(
    guidance.guided(velocity, guidance.row(sampling.guidance), sampling.scales),
    noise,
    plan.clean(noise),
    given,
    sampler.schedule(sampling.steps, sampling.shift),
    sampling.method,
    condition | {"route": plan.route(batch)},
  )
  return {s: layout.replicate(x) for s, x in made.items()}

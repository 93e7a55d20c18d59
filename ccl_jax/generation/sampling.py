"""How latents are sampled: settings, and one compiled program for each task.

A stream that is given as a whole, the sound of a2v or the video of v2a, is a
reference: at t = 0 at every step, and routed to see context only. So it runs
once, before the loop, for each text that guidance shows it, and only its keys
and values stay: layers x b x tokens x width x 2 numbers in the compute dtype,
with the other stream's width. At the 14b shape v2a keeps 40 x 27,280 x 1536 x 2
bfloat16 of a clip, 6.7 GB, and a2v 0.13 GB.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ccl_jax.array_types import Array, PyTree, State
from ccl_jax.diffusion import guidance, solvers, tasks
from ccl_jax.diffusion.flow import Velocity
from ccl_jax.models import joint
from ccl_jax.models.attention_probe import attention_shares
from ccl_jax.sharding import Layout


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
  """How to sample.

  Attributes:
    solver: a key of `sampler.SOLVERS`.
    num_inference_steps: from noise to latents.
    shift: of the times, towards noise above 1.
    guidance: a row of `guidance.ROWS`.
    video_guidance_scale, audio_guidance_scale: of each stream's guidance, and of the text where
      the row has two scales; from 0, where 1 is none.
    cross_guidance_scale: of the other stream, where the row has two scales.
    audio_cross_guidance_scale: the same for the audio, if it is not to be the same.
    guidance_low, guidance_high: sigmas (1 is noise, 0 data) between which there
      is guidance; at the other steps only the conditional velocity is run.
    guidance_rescale: from 0 to 1, how far the standard deviation of the guided velocity
      goes back to that of the conditional one.
    batch_passes: run the passes of a step as one batch; else one after the other,
      slower and in less memory.
    cache_reference: run a reference before the first step instead of at each:
      the same result, for the memory that its keys and values take.

  Raises:
    ValueError: an unknown method or guidance, no steps, a scale below 0, a
      window that is none, or a rescale outside of 0 to 1.
  """

  solver: str = "unipc"
  num_inference_steps: int = 50
  shift: float = 5.0
  guidance: str = "ucg2"
  video_guidance_scale: float = 4.0
  audio_guidance_scale: float = 3.0
  cross_guidance_scale: float = 2.5
  audio_cross_guidance_scale: float | None = None
  guidance_low: float = 0.0
  guidance_high: float = 1.0
  guidance_rescale: float = 0.0
  batch_passes: bool = True
  cache_reference: bool = True

  def __post_init__(self):
    guidance.row(self.guidance)
    solvers.schedule(self.num_inference_steps, self.shift)
    solvers.check_method(self.solver)
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if field.name.endswith("_scale") and value is not None and not value >= 0:
        raise ValueError(
          f"sampling.{field.name} is {value}: expected at least 0."
        )
    low, high = self.window
    if not 0 <= low <= high <= 1:
      raise ValueError(
        f"sampling.guidance_low={low} and guidance_high={high}: expected"
        " 0 <= low <= high <= 1."
      )
    if not 0 <= self.guidance_rescale <= 1:
      raise ValueError(
        f"sampling.guidance_rescale is {self.guidance_rescale}: expected from 0 to 1."
      )

  @property
  def scales(self) -> dict[str, dict[str, float]]:
    """Scales by stream and name, for every row of guidance."""
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
  def window(self) -> tuple[float, float]:
    """The lowest and the highest guided sigma."""
    return self.guidance_low, self.guidance_high

  def held(self, plan: tasks.InferenceTask) -> tuple[str, ...]:
    """The streams that run once: those that are given as a whole."""
    return plan.given if self.cache_reference else ()

  def work(self, plan: tasks.InferenceTask) -> dict[str, Any]:
    """How often the model runs for a clip: options of `flops.sample_flops`."""
    held, row = self.held(plan), guidance.row(self.guidance)
    iterated = tuple(s for s in plan.streams if s not in held)
    passes = len(guidance.passes(row, iterated))
    sigmas = solvers.schedule(self.num_inference_steps, self.shift)
    return {
      "streams": plan.streams,
      "held": held,
      "forwards": sum(
        steps * (passes if inside else 1)
        for inside, steps in solvers.split(sigmas, self.window)
      ),
      "runs": len(guidance.references(row)),
    }


class AttentionProbe(NamedTuple):
  """Steps and layers whose cross-modal attention is shown."""

  num_inference_steps: tuple[int, ...]
  layers: tuple[int, ...]


def spread(num: int) -> list[int]:
  """The first, the middle and the last of `num`."""
  return sorted({0, num // 2, num - 1})


@functools.partial(
  jax.jit,
  static_argnames=("graph", "task", "sampling", "layout", "look", "watch"),
)
def sample_latents(
  params: PyTree,
  noise: State,
  given: State,
  condition: dict,
  *,
  graph: nnx.GraphDef,
  task: str,
  sampling: SamplingConfig,
  layout: Layout,
  look: AttentionProbe | None = None,
  watch: solvers.Watch | None = None,
) -> tuple[State, dict[str, Array]]:
  """Latents of the streams in `noise`; one compiled loop over the steps.

  On a mesh, every device gets all of them.

  Args:
    given: latents of the reference stream, or of the first frame.
    condition: text, negative (b, l, d), perhaps null latents, see `guidance`,
      and an image, see `models.joint`: it takes the place of a first frame.
    look: where attention is to be looked at; the latents stay the same.
    watch: see `sampler.solve`; another one is another program.

  Returns:
    The latents, and the shares of `look` as of `models.attention_probe`:
    "video": (steps, layers, b, f, h, w), "audio": (steps, layers, b, m);
    nothing without it, or if one stream runs alone.

  Raises:
    ValueError: a step or a layer to look at that is not there.
  """
  made, states = _solve(
    params, noise, given, condition, graph, task, sampling, watch
  )
  shares = {}
  if look is not None:
    shares = _shares(params, states, condition, graph, task, sampling, look)
  return tuple(
    {s: layout.replicate(x) for s, x in each.items()} for each in (made, shares)
  )


def _shares(
  params, states, condition, graph, task, sampling, look
) -> dict[str, Array]:
  """One more pass, the conditional one, on the state of each step."""
  _check_indices("step", look.steps, sampling.num_inference_steps)
  plan = tasks.inference_task(task)
  image, route = condition.get("image"), plan.route(len(condition["text"]))

  def shares_at(at):
    state, sigma = at
    clean = {} if image is not None else plan.clean(state)
    shares = attention_shares(
      graph, params, state, solvers.times(state, sigma, clean),
      condition["text"], route, image,
    )  # fmt: skip
    for x in shares.values():
      _check_indices("layer", look.layers, len(x))
    return {s: x[np.array(look.layers)] for s, x in shares.items()}

  steps = np.array(look.steps)
  sigmas = solvers.schedule(sampling.num_inference_steps, sampling.shift)[steps]
  chosen = {s: x[steps] for s, x in states.items()}
  return jax.lax.map(shares_at, (chosen, sigmas))


def _check_indices(name: str, chosen: tuple[int, ...], num: int) -> None:
  if not chosen or any(not 0 <= i < num for i in chosen):
    raise ValueError(
      f"{name}s {chosen} to look at: expected some from 0 to {num - 1}."
    )


def _solve(
  params, noise, given, condition, graph, task, sampling, watch
) -> tuple[State, State]:
  """Latents, and (steps, b, ...) of all states on the way."""
  plan = tasks.inference_task(task)
  held = sampling.held(plan)
  row, plain = guidance.row(sampling.guidance), guidance.row("none")
  route = plan.route(len(condition["text"]))
  condition = condition | {"route": route, "held": held}
  whole = {s: jnp.broadcast_to(given[s], noise[s].shape) for s in held}
  velocity = remembering(graph, params, row, whole, condition)
  guided = functools.partial(
    guidance.guided,
    velocity,
    scales=sampling.scales,
    batched=sampling.batch_passes,
  )

  def iterated(state):
    return {s: x for s, x in state.items() if s not in held}

  made, states = solvers.solve(
    guided(row, rescale=sampling.guidance_rescale),
    iterated(noise),
    iterated({} if "image" in condition else plan.clean(noise)),
    iterated(given),
    solvers.schedule(sampling.num_inference_steps, sampling.shift),
    sampling.solver,
    condition,
    sampling.window,
    guided(plain),
    watch,
  )
  for s, x in whole.items():
    made[s] = x.astype(jnp.float32)
    states[s] = jnp.broadcast_to(
      made[s], (sampling.num_inference_steps, *x.shape)
    )
  return {s: made[s] for s in noise}, {s: states[s] for s in noise}


def remembering(
  graph: nnx.GraphDef,
  params: PyTree,
  row: guidance.GuidanceRule,
  given: State,
  condition: dict,
) -> Velocity:
  """The model's velocity; what no step changes is computed here, once.

  Args:
    given: latents of the references to run, of none if they are iterated.
    condition: as guidance takes it.
  """
  references = guidance.references(row) if given else ()

  def run(text: str, source: str):
    latents = (
      given if source == "given" else guidance.required(condition, source)
    )
    state = {s: jnp.broadcast_to(latents[s], x.shape) for s, x in given.items()}
    return state, guidance.required(condition, text)

  runs = [run(*reference) for reference in references]
  memory = joint.remember(graph, params, runs, condition["route"])

  def velocity(state, t, condition):
    wanted = [variant.reference for variant in condition["variants"]]
    reads = ()
    if any(reference in references for reference in wanted):
      # Passes that see context only read one in vain: their route is closed.
      reads = tuple(
        references.index(r) if r in references else 0 for r in wanted
      )
    return joint.velocity(
      graph,
      params,
      state,
      t,
      condition["text"],
      condition["route"],
      condition.get("image"),
      dataclasses.replace(memory, reads=reads),
    )

  return velocity

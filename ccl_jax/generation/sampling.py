"""Samples latents by one compiled program for each task and settings.

A stream that the user provides in full, the sound of a2v or the video of v2a,
is a reference: at t = 0 at every step, and routed to see context only. So it
runs once before the loop, for each text that guidance shows it, and only its
keys and values are kept: layers x b x tokens x width x 2 numbers in the compute
dtype, with the other stream's width. At the 14b shape v2a keeps 40 x 27,280 x
1536 x 2 bfloat16 of a clip, 6.7 GB, and a2v 0.13 GB.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ccl_jax.array_types import Array, PyTree, State
from ccl_jax.cost import flops
from ccl_jax.diffusion import guidance, solvers
from ccl_jax.diffusion.flow import Velocity
from ccl_jax.diffusion.forward_passes import Condition
from ccl_jax.diffusion.tasks import InferenceTask
from ccl_jax.generation.sampling_config import SamplingConfig
from ccl_jax.models import functional
from ccl_jax.models.attention_probe import attention_shares
from ccl_jax.params.sharding import Layout


class AttentionProbe(NamedTuple):
  """Steps and layers whose cross-modal attention is returned."""

  steps: tuple[int, ...]
  layers: tuple[int, ...]


def first_middle_last(num: int) -> tuple[int, ...]:
  """Returns the first, the middle and the last of `num` indices."""
  return tuple(sorted({0, num // 2, num - 1}))


def count_runs(sampling: SamplingConfig, task: InferenceTask) -> dict[str, Any]:
  """Counts a clip's runs of the model, as `cost.flops.sample_flops` needs."""
  cached, rule = sampling.cached(task), guidance.rule(sampling.guidance)
  iterated = tuple(s for s in task.streams if s not in cached)
  passes = len(rule.passes(iterated))
  guided = sampling.num_guided(task)
  return {
    "streams": task.streams,
    "cached": cached,
    "forwards": sampling.num_inference_steps + (passes - 1) * guided,
    "cached_forwards": len(guidance.references(rule)),
  }


def describe_skipped(
  model: Mapping[str, Any],
  shape: flops.Shape,
  sampling: SamplingConfig,
  task: InferenceTask,
) -> str:
  """Returns what the steps without guidance save; "" if there are none."""
  steps = sampling.num_inference_steps
  guided = sampling.num_guided(task)
  if guided == steps or sampling.guidance == "none":
    return ""
  everywhere = dataclasses.replace(
    sampling, guidance_every=1, guidance_low=0.0, guidance_high=1.0
  )
  some, full = (
    sum(flops.sample_flops(model, shape, **count_runs(each, task)).values())
    for each in (sampling, everywhere)
  )
  return (
    f"{task.name}: guidance at {guided} of {steps} steps takes"
    f" {some / 1e12:.4g} TFLOPs a clip instead of {full / 1e12:.4g},"
    f" {1 - some / full:.1%} less."
  )


@functools.partial(
  jax.jit,
  static_argnames=("graph", "task", "sampling", "layout", "probe", "on_step"),
)
def sample_latents(
  params: PyTree,
  noise: State,
  given: State,
  condition: Condition,
  *,
  graph: nnx.GraphDef,
  task: InferenceTask,
  sampling: SamplingConfig,
  layout: Layout,
  probe: AttentionProbe | None = None,
  on_step: solvers.OnStep | None = None,
) -> tuple[State, dict[str, Array]]:
  """Samples the streams of `noise` in one compiled loop over the steps.

  On a mesh, every device gets all of the results.

  Args:
    given: latents of the reference stream, or of the first frame.
    condition: without a route, which is the task's. An image takes the place of
      a first frame.
    probe: which attention to return; the latents stay the same.
    on_step: see `solvers.solve`; each callable is another program.

  Returns:
    The latents, and `attention_probe.attention_shares` of the probe: "video"
    (steps, layers, b, f, h, w), "audio" (steps, layers, b, m); nothing without
    a probe, or for a stream alone.

  Raises:
    ValueError: the probe's step or layer does not exist.
  """
  route = task.route(len(condition.text))
  condition = dataclasses.replace(
    condition, route=route, cached=sampling.cached(task)
  )
  model = dict(graph=graph, task=task, sampling=sampling)
  latents, states = _solve(
    params, noise, given, condition, **model, on_step=on_step
  )
  shares = {}
  if probe is not None:
    shares = _shares(params, states, condition, **model, probe=probe)
  return tuple(
    {s: layout.replicate(x) for s, x in each.items()}
    for each in (latents, shares)
  )


def _solve(
  params, noise, given, condition, *, graph, task, sampling, on_step
) -> tuple[State, State]:
  """Returns the latents, and all states on the way, (steps, b, ...)."""
  cached = condition.cached
  rule = guidance.rule(sampling.guidance)
  references = {s: jnp.broadcast_to(given[s], noise[s].shape) for s in cached}
  velocity = with_reference_cache(graph, params, rule, references, condition)
  guide = functools.partial(
    guidance.guide, velocity, scales=sampling.scales,
    batched=sampling.batch_passes, zero_above=sampling.zero_above,
  )  # fmt: skip

  # The state lacks a cached reference: the velocity has its keys and values.
  def iterated(state):
    return {s: x for s, x in state.items() if s not in cached}

  transform_state = None
  if sampling.apg_momentum:
    transform_state = guidance.init_transform_state(rule, iterated(noise))
  latents, states = solvers.solve(
    velocity=guide(
      rule, rescale=sampling.guidance_rescale, transform=sampling.transform
    ),
    noise=iterated(noise),
    clean=iterated(clean_of(condition, task, noise)),
    given=iterated(given),
    sigmas=iterated({s: sampling.sigmas[s] for s in noise}),
    solver=sampling.solver,
    condition=condition,
    window=sampling.window,
    every=sampling.guidance_every,
    transform_state=transform_state,
    outside=guide(guidance.rule("none")),
    on_step=on_step,
  )
  for s, x in references.items():
    latents[s] = x.astype(jnp.float32)
    states[s] = jnp.broadcast_to(
      latents[s], (sampling.num_inference_steps, *x.shape)
    )
  return {s: latents[s] for s in noise}, {s: states[s] for s in noise}


def clean_of(condition: Condition, task: InferenceTask, state: State) -> State:
  """Returns masks of what is given in the state, not in `condition.image`."""
  image = condition.image
  return {} if image and image.is_first_frame else task.clean(state)


def with_reference_cache(
  graph: nnx.GraphDef,
  params: PyTree,
  rule: guidance.GuidanceRule,
  references: State,
  condition: Condition,
) -> Velocity:
  """Returns the model's velocity, with what no step changes computed once.

  Args:
    references: latents of the reference streams to run here; none if they are
      iterated.
  """
  runs = guidance.references(rule) if references else ()

  def inputs(text: str, source: str):
    latents = references if source == "given" else condition.require(source)
    state = {
      s: jnp.broadcast_to(latents[s], x.shape) for s, x in references.items()
    }
    return state, condition.text_of(text)

  cache = functional.make_kv_cache(
    graph, params, [inputs(*run) for run in runs], condition.route
  )

  def velocity(state, t, condition):
    wanted = [variant.reference for variant in condition.variants]
    reads = ()
    if any(reference in runs for reference in wanted):
      # A pass that sees context only reads run 0, which its route masks.
      reads = tuple(runs.index(r) if r in runs else 0 for r in wanted)
    return functional.velocity(
      graph, params, state, t, condition.text, condition.route,
      condition.image, dataclasses.replace(cache, reads=reads),
    )  # fmt: skip

  return velocity


def _shares(
  params, states, condition, *, graph, task, sampling, probe
) -> dict[str, Array]:
  """Runs the conditional pass once more on the states of the probe's steps."""
  _check_indices("step", probe.steps, sampling.num_inference_steps)

  def shares_at(at):
    state, sigma = at
    times = solvers.times(state, sigma, clean_of(condition, task, state))
    shares = attention_shares(
      graph, params, state, times, condition.text, condition.route,
      condition.image,
    )  # fmt: skip
    for x in shares.values():
      _check_indices("layer", probe.layers, len(x))
    return {s: x[np.array(probe.layers)] for s, x in shares.items()}

  steps = np.array(probe.steps)
  sigmas = {s: sampling.sigmas[s][steps] for s in states}
  chosen = {s: x[steps] for s, x in states.items()}
  return jax.lax.map(shares_at, (chosen, sigmas))


def _check_indices(name: str, chosen: tuple[int, ...], num: int) -> None:
  """Checks the steps or layers of a probe; else raises ValueError."""
  if not chosen or any(not 0 <= i < num for i in chosen):
    raise ValueError(
      f"probe.{name}s is {chosen}: expected at least one, each from 0 to"
      f" {num - 1}."
    )

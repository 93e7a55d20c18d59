"""A reference stream that is run once gives what running it each time gives."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest

from ccl_jax.diffusion import flow, guidance, tasks
from ccl_jax.diffusion.forward_passes import Condition
from ccl_jax.generation import sampling
from ccl_jax.models import functional
from tests.models import tiny

CCA = tiny.SETTINGS["fusion"]
FUSIONS = {
  "cca": CCA | {"positions": "seconds", "video_window_radius": 1},
  "gated": dict(kind="gated"),
}
B = 2
SCALES = {
  "video": {"scale": 4.0, "text": 3.0, "cross": 2.5},
  "audio": {"scale": 1.5, "text": 5.0, "cross": 0.5},
}


@functools.cache
def model(fusion="cca", c=2):
  audio = tiny.SETTINGS["audio"] | {"tokens_per_frame": c}
  graph, shapes = functional.describe(
    tiny.SETTINGS | {"fusion": FUSIONS[fusion], "audio": audio}
  )
  return graph, tiny.randomize(shapes)


def inputs(task):
  """(noise, given, condition): each row is another prompt, and another seed."""
  plan = tasks.inference_task(task)
  state, _, text, _ = tiny.inputs(1, B)
  keys = jax.vmap(jax.random.key)(jnp.array([5, 11]))
  noise = flow.draw_noise(keys, {s: x.shape[1:] for s, x in state.items()})
  given = {s: state[s] for s in plan.given}
  null = {s: 0.5 * x[:1] for s, x in state.items()}
  condition = Condition(text=text, negative=-text[::-1], null=null)
  return noise, given, condition


def largest(a, b):
  """Largest difference, relative to the largest value of b."""
  return float(jnp.abs(a - b).max() / jnp.abs(b).max())


_make_kv_cache = jax.jit(functional.make_kv_cache, static_argnums=0)
_velocity = jax.jit(functional.velocity, static_argnums=0)


def make_kv_cache(graph, params, runs, route):
  """`functional.make_kv_cache` by one program, run by run."""
  each = [_make_kv_cache(graph, params, [run], route) for run in runs]
  runs = tuple(run for cache in each for run in cache.runs)
  first = each[0] if each else _make_kv_cache(graph, params, [], route)
  return dataclasses.replace(first, runs=runs)


def velocity(*args):
  """`functional.velocity` by one program, whichever run it reads."""
  *args, cache = args
  reads = tuple(0 for _ in cache.reads)
  runs = tuple(cache.runs[i] for i in cache.reads)
  return _velocity(*args, dataclasses.replace(cache, runs=runs, reads=reads))


@pytest.fixture(autouse=True)
def programs(monkeypatch):
  """Compiles what the model does, and once for all guidance rules."""
  monkeypatch.setattr(functional, "make_kv_cache", make_kv_cache)
  monkeypatch.setattr(functional, "velocity", velocity)


def guided(task, rule, is_cached, *kind):
  """The guided velocity of the stream that `task` generates."""
  plan, (graph, params) = tasks.inference_task(task), model(*kind)
  noise, given, condition = inputs(task)
  condition = dataclasses.replace(
    condition, route=plan.route(B), cached=plan.given if is_cached else ()
  )
  velocity = sampling.with_reference_cache(
    graph, params, rule, given if is_cached else {}, condition
  )
  (stream,) = plan.generated
  state = {stream: noise[stream]} if is_cached else noise | given
  t = {s: jnp.full(B, 0.7 if s == stream else 0.0) for s in state}
  function = guidance.guide(velocity, rule, SCALES, batched=False)
  return function(state, t, condition)[stream]


@pytest.mark.parametrize("name", guidance.RULES)
@pytest.mark.parametrize("task", ["a2v", "v2a"])
def test_guided_velocity_is_the_same(task, name):
  rule = guidance.rule(name)
  assert largest(guided(task, rule, True), guided(task, rule, False)) < 1e-5


@pytest.mark.parametrize("task", ["a2v", "v2a"])
def test_where_c_is_not_whole(task):
  """The six latents of three frames are then padded to nine tokens."""
  rule = guidance.rule("ucg2")
  once, again = (guided(task, rule, once, "cca", 2.1) for once in (True, False))
  assert largest(once, again) < 1e-5


def test_where_routes_close_a_gate():
  """The baseline has no context tokens; a2v's audio is then left alone."""
  rule = guidance.rule("none")
  once, again = (guided("a2v", rule, once, "gated") for once in (True, False))
  assert largest(once, again) < 1e-5

"""Sampling a video whose audio is a condition, by every rule of guidance."""

import functools

import jax
import jax.numpy as jnp
import pytest

from ccl_jax.diffusion import guidance, tasks
from ccl_jax.diffusion.forward_passes import Condition
from ccl_jax.generation import sampling
from ccl_jax.generation.sampling_config import SamplingConfig
from ccl_jax.models import functional
from ccl_jax.params.sharding import ONE_DEVICE
from tests.models import tiny
from tests.models.icac_test import B, settings
from tests.models.pictures_test import pictures


def sample(attention, rule, task="a2v", cached=False, image=None):
  """The function of parameters, and their shapes."""
  graph, shapes = functional.describe(
    settings(attention=attention, references=True)
  )
  plan = tasks.inference_task(task)
  state, _, text, _ = tiny.inputs(b=B)
  state = {s: state[s] for s in plan.streams}
  null = {s: 0.5 * x[:1] for s, x in state.items()}
  config = SamplingConfig(
    num_inference_steps=2, guidance=rule, cache_reference=cached
  )
  return functools.partial(
    sampling.sample_latents,
    noise=state, given={s: state[s] for s in plan.given},
    condition=Condition(text=text, negative=-text, image=image, null=null),
    graph=graph, task=plan, sampling=config, layout=ONE_DEVICE,
  ), shapes  # fmt: skip


@pytest.mark.parametrize("rule", guidance.RULES)
@pytest.mark.parametrize("attention", ["masked3d", "self2d_frozen"])
def test_every_rule_can_be_traced(attention, rule):
  """With a reference picture, beside which audio that is cached has nothing."""
  cached = attention == "self2d_frozen"
  run, shapes = sample(attention, rule, cached=cached, image=pictures())
  latents, _ = jax.eval_shape(run, shapes)
  assert latents["video"].shape == (B, tiny.F, tiny.H, tiny.W, 3)


def test_the_sound_is_as_given_and_guides_the_video():
  made = {}
  for rule in ("none", "ucg2"):
    run, shapes = sample("masked3d", rule)
    made[rule], _ = run(tiny.randomize(shapes))
  given = tiny.inputs(b=B)[0]["audio"]
  assert all(jnp.array_equal(x["audio"], given) for x in made.values())
  assert jnp.abs(made["none"]["video"] - made["ucg2"]["video"]).max() > 1e-3

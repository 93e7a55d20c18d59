"""Settings of sampling, and the program: on a mesh, and what it costs."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from ccl_jax.cost import flops, hlo, matmul
from ccl_jax.diffusion import tasks
from ccl_jax.diffusion.forward_passes import Condition
from ccl_jax.generation.sampling import (
  AttentionProbe,
  count_runs,
  describe_skipped,
  sample_latents,
)
from ccl_jax.generation.sampling_config import SamplingConfig
from ccl_jax.models import functional
from ccl_jax.params.sharding import AXES, ONE_DEVICE
from ccl_jax.training.state import abstract_state, state_params
from tests.bench import reference_once
from tests.models import tiny
from tests.training import setups

B, F = 2, 3  # frames that no context axis divides
MODEL = tiny.SETTINGS | {
  "video": tiny.SETTINGS["video"] | {"width": 32, "heads": 4},
  "audio": tiny.SETTINGS["audio"] | {"width": 32, "heads": 4},
  "text_width": 8,
}
SHAPES = {"video": (F, 4, 4, 3), "audio": (F * 2, 2)}
# Two texts for the reference, and passes that read none.
PLAIN = SamplingConfig(
  num_inference_steps=3, guidance="ucg3", cache_reference=False
)


def inputs(task, b=B):
  """(noise, given, condition), each row of its own seed."""
  rows = [np.random.default_rng(seed) for seed in range(b)]

  def normal(*shape):
    return np.stack([rng.standard_normal(shape, np.float32) for rng in rows])

  plan = tasks.inference_task(task)
  noise = {s: normal(*SHAPES[s]) for s in plan.streams}
  given = {s: normal(*SHAPES[s]) for s in plan.given}
  null = {s: np.full((1, *SHAPES[s]), 0.1, np.float32) for s in SHAPES}
  text, negative = normal(5, 8), normal(5, 8)
  return noise, given, Condition(text=text, negative=negative, null=null)


@functools.cache
def sample(task, sampling, sizes=None):
  """Latents of `inputs`, on one device or on a mesh of all."""
  layout, shardings = ONE_DEVICE, None
  graph, shapes = functional.describe(MODEL)
  if sizes:
    setup = setups.make_setup(
      jax.devices(),
      model=MODEL,
      mesh=dict(zip(AXES, sizes, strict=True)),
      sharding={"max_unsharded": 0.2},
    )
    graph, layout = setup.plan.graph, setup.plan.layout
    placed = state_params(abstract_state(setup))
    shardings = jax.tree.map(lambda x: x.sharding, placed)
  params = tiny.randomize(shapes)
  params = jax.device_put(params, shardings) if shardings else params
  made, shares = sample_latents(
    params, *inputs(task), graph=graph, task=tasks.inference_task(task),
    sampling=sampling,
    layout=layout,
  )  # fmt: skip
  assert not shares
  return made


def assert_same(made, expected):
  for s, x in expected.items():
    x = np.asarray(x)
    atol = 2e-5 * np.abs(x).max()
    np.testing.assert_allclose(made[s], x, rtol=0, atol=atol, err_msg=s)


@pytest.mark.parametrize(
  ("task", "sizes"), [("a2v", None), ("v2a", (1, 2, 4, 1))]
)
def test_a_reference_run_once_gives_the_same_latents(task, sizes):
  once = dataclasses.replace(PLAIN, cache_reference=True)
  made = sample(task, once, sizes)
  expected = sample(task, PLAIN)
  assert_same(made, expected)
  (given,) = tasks.inference_task(task).given
  np.testing.assert_array_equal(made[given], inputs(task)[1][given])


def test_a_row_alone_and_its_passes_in_turn_give_the_same():
  noise, given, condition = inputs("v2a")
  condition = dataclasses.replace(
    condition, text=condition.text[1:], negative=condition.negative[1:]
  )
  graph, shapes = functional.describe(MODEL)
  once = dataclasses.replace(PLAIN, cache_reference=True, batch_passes=False)
  alone, _ = sample_latents(
    tiny.randomize(shapes), {s: x[1:] for s, x in noise.items()},
    {s: x[1:] for s, x in given.items()}, condition,
    graph=graph, task=tasks.inference_task("v2a"), sampling=once,
    layout=ONE_DEVICE,
  )  # fmt: skip
  assert_same(alone, {s: x[1:] for s, x in sample("v2a", PLAIN).items()})


def test_looking_at_attention_changes_nothing():
  noise, given, condition = inputs("a2v")
  graph, shapes = functional.describe(MODEL)
  look = functools.partial(
    sample_latents, tiny.randomize(shapes), noise, given, condition,
    graph=graph, task=tasks.inference_task("a2v"), sampling=PLAIN,
    layout=ONE_DEVICE,
  )  # fmt: skip
  made, shares = look(probe=AttentionProbe(steps=(0, 2), layers=(1,)))
  assert_same(made, sample("a2v", PLAIN))
  assert shares["video"].shape == (2, 1, B, F, 2, 2)
  assert shares["audio"].shape == (2, 1, B, F * 2)
  assert (shares["video"] > 0).all() and (shares["video"] < 1).all()
  assert not shares["audio"].any()  # the reference sees its context only
  for wrong in (
    AttentionProbe((3,), (0,)),
    AttentionProbe((), (0,)),
    AttentionProbe((0,), (2,)),
  ):
    with pytest.raises(ValueError, match=r"probe.*expected at least one"):
      look(probe=wrong)


# Windows of one frame, for which framed attention computes just what is seen.
ONE_FRAME = MODEL | {
  "fusion": MODEL["fusion"] | dict(audio_window_radius=0, video_window_radius=0)
}
COUNTED = flops.Shape(F, 4, 4, text=5, batch=B)


def array(*shape):
  return jax.ShapeDtypeStruct(shape, np.float32)


def lower(task, sampling):
  """The sampling program, not compiled."""
  graph, params = functional.describe(ONE_FRAME)
  return sample_latents.lower(
    params, *inputs(task), graph=graph, task=tasks.inference_task(task),
    sampling=sampling,
    layout=ONE_DEVICE,
  )  # fmt: skip


@pytest.mark.usefixtures("framed_windows")
@pytest.mark.parametrize(
  ("task", "options"),
  [
    ("t2v", {}),
    ("t2av", {"guidance": "text"}),
    ("a2v", {"guidance": "sync"}),
    ("v2a", {"guidance": "multimodal", "guidance_low": 0.5}),
    ("t2v", {"guidance_every": 3}),  # of four steps the first and the last
  ],
)
def test_flops_are_those_of_the_program(task, options):
  """So a tower that takes no part is not in it, and a reference runs once."""
  sampling = dataclasses.replace(
    SamplingConfig(num_inference_steps=4, shift=1.0), **options
  )
  work = count_runs(sampling, tasks.inference_task(task))
  parts = flops.sample_flops(ONE_FRAME, COUNTED, **work)
  text = lower(task, sampling).as_text(dialect="hlo")
  assert matmul.matmul_flops(hlo.parse(text)) == B * sum(parts.values())


def test_what_skipped_guidance_saves_is_told():
  """A pass alone at two of four steps: 6 of 8, but for what no step repeats."""
  sampling = SamplingConfig(num_inference_steps=4, guidance_every=2)
  task, all_steps = tasks.inference_task("t2av"), SamplingConfig()
  text = describe_skipped(ONE_FRAME, COUNTED, sampling, task)
  assert text.startswith("t2av: guidance at 2 of 4 steps takes")
  assert text.endswith(", 24.9% less.")
  assert not describe_skipped(ONE_FRAME, COUNTED, all_steps, task)
  window = dataclasses.replace(all_steps, guidance_low=0.5)
  guided = window.num_guided(task)
  text = describe_skipped(ONE_FRAME, COUNTED, window, task)
  less = float(text.split()[-2].removesuffix("%"))
  assert 0 < guided < 50 and abs(less - (50 - guided)) < 0.2


def test_the_compiler_agrees_where_products_dominate():
  """For a step that reads a cached video, and for the run that caches it."""
  wide = dict(width=256, ffn=1024, heads=2)
  model = ONE_FRAME | {
    "video": MODEL["video"] | wide, "audio": MODEL["audio"] | wide,
    "num_layers": 1,
  }  # fmt: skip
  shape = flops.Shape(F, 16, 16, text=16)
  state = {"video": array(1, F, 16, 16, 3), "audio": array(1, F * 2, 2)}
  graph, params = functional.describe(model)
  text, route = array(1, 16, 8), tasks.inference_task("v2a").route(1)
  reference = ({"video": state["video"]}, text)

  def make_cache(params, reference):
    return functional.make_kv_cache(graph, params, [reference], route)

  def step(params, audio, t, text, cache):
    cache = dataclasses.replace(cache, reads=(0,))
    state, t = {"audio": audio}, {"audio": t}
    return functional.velocity(
      graph, params, state, t, text, route, cache=cache
    )

  cache = jax.eval_shape(make_cache, params, reference)
  lowered = (
    jax.jit(make_cache).lower(params, reference),
    jax.jit(step).lower(params, state["audio"], array(1), text, cache),
  )
  counted = sum(program.cost_analysis()["flops"] for program in lowered)
  work = dict(forwards=1, cached=("video",), cached_forwards=1)
  parts = flops.sample_flops(model, shape, ("video", "audio"), **work)
  assert 1 <= counted / sum(parts.values()) < 1.05


@pytest.mark.parametrize("size", ["14b", "1.3b"])
def test_a_reference_costs_a_twentieth_at_the_most(size):
  again, once = (
    reference_once.clip_flops(size, "v2a", cache_reference=value)
    for value in (False, True)
  )
  assert once <= again / 20


def test_keys_of_a_14b_video_take_as_much_as_documented():
  assert reference_once.kept_bytes("14b", "v2a") == 40 * 27_280 * 1536 * 2 * 2
  assert reference_once.kept_bytes("14b", "t2v") == 0


@pytest.mark.parametrize(
  ("options", "words"),
  [
    ({"num_inference_steps": 0}, "num_inference_steps=0"),
    ({"shift": 0.0}, "sampling.shift=0.0"),
    ({"shift": float("inf")}, "sampling.shift=inf"),
    ({"audio_shift": -1.0}, "sampling.audio_shift=-1.0"),
    ({"video_guidance_scale": -1.0}, "video_guidance_scale=-1.0"),
    ({"audio_cross_guidance_scale": -0.5}, "cross_guidance_scale=-0.5"),
    ({"cross_guidance_scale": float("nan")}, "cross_guidance_scale=nan"),
    ({"guidance_low": 0.6, "guidance_high": 0.4}, "low <= high"),
    ({"guidance_high": 1.5}, "low <= high <= 1"),
    ({"guidance_rescale": 1.5}, "guidance_rescale=1.5"),
    ({"guidance_every": 0}, "guidance_every=0"),
    ({"apg_momentum": -0.5}, "guidance_transform is none: expected apg"),
    *(
      ({"apg_momentum": x, "guidance_transform": "apg"}, "between -1 and 1")
      for x in (-1.5, 1.0, -1.0, float("nan"))
    ),
    ({"apg_eta": -0.1}, "apg_eta=-0.1: expected at least 0"),
    ({"apg_norm_threshold": float("nan")}, "threshold=nan: expected at"),
    ({"solver": "heun"}, "euler, unipc"),
    ({"guidance": "cfg"}, "none, text, ucg2"),
  ],
)  # fmt: skip
def test_wrong_settings_are_named(options, words):
  with pytest.raises(ValueError, match=words):
    SamplingConfig(**options)


def test_each_stream_has_its_scales():
  scales = SamplingConfig(
    cross_guidance_scale=2.0, audio_guidance_scale=3.0, video_guidance_scale=4.0
  ).scales
  assert scales["video"] == {"scale": 4.0, "text": 4.0, "cross": 2.0}
  assert scales["audio"] == {"scale": 3.0, "text": 3.0, "cross": 2.0}
  own = SamplingConfig(
    cross_guidance_scale=2.0, audio_cross_guidance_scale=0.0
  ).scales
  assert [own[s]["cross"] for s in ("video", "audio")] == [2.0, 0.0]

"""Guidance, samplers and defaults of the PyTorch CCL against JAX's."""

import dataclasses
import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.array_types import STREAMS, Image
from ccl_jax.convert import export
from ccl_jax.diffusion import flow, guidance, solvers, tasks
from ccl_jax.diffusion.forward_passes import Condition
from ccl_jax.generation import stages
from ccl_jax.generation.pipeline import Pipeline
from ccl_jax.generation.sampling_config import SamplingConfig
from ccl_jax.models.fusion import make_gated
from ccl_jax.models.fusion.cca import CCA
from tests.parity.torch_ccl import (
  LIMIT,
  F,
  H,
  L,
  W,
  error,
  inputs,
  null_latents,
  theirs,
  to_numpy,
  to_torch,
  torch,
  torch_model,
)

torch_sampling = pytest.importorskip("ccl_jax.convert.torch_sampling")
torch_solvers = pytest.importorskip("ccl_jax.convert.torch_solvers")
SCALES = dict(
  video_guidance_scale=4.0, audio_guidance_scale=3.0, cross_guidance_scale=2.5
)
WINDOW = dict(guidance_low=0.2, guidance_high=0.9, guidance_rescale=0.4)


def test_what_a_config_leaves_out():
  """Defaults are those of JAX."""
  sampling = {f.name: f.default for f in dataclasses.fields(SamplingConfig)}
  # These two change memory and time, not the latents; PyTorch has neither.
  del sampling["batch_passes"], sampling["cache_reference"]
  assert sampling == torch_sampling.DEFAULTS
  for make, extra in ((CCA, {}), (make_gated, torch_model.GATED)):
    options = torch_model.DEFAULTS | extra
    for name, parameter in inspect.signature(make).parameters.items():
      assert options.get(name, parameter.default) == parameter.default


def test_tables_are_those_of_jax():
  assert torch_sampling.RULES.keys() == guidance.RULES.keys()
  assert torch_solvers.SOLVERS.keys() == solvers.SOLVERS.keys()
  assert torch_sampling.TASKS.keys() == tasks.INFERENCE_TASKS.keys()
  for name, plan in tasks.INFERENCE_TASKS.items():
    assert torch_sampling.TASKS[name] == (plan.streams, plan.given)
    got = torch_sampling.make_route([name] * 2)
    expected = plan.route(2)._asdict()
    jax.tree.map(np.testing.assert_array_equal, got, expected)


@pytest.mark.parametrize("steps, shift", [(1, 1.0), (2, 3.0), (12, 5.0)])
@pytest.mark.parametrize("method", solvers.SOLVERS)
def test_solvers(method, steps, shift):
  noise = inputs()[0]["audio"]

  def field(state, t):
    return {"audio": jnp.sin(2 * state["audio"]) + t * state["audio"]}

  expected, _ = solvers.solve(
    lambda state, t, _: field(state, t["audio"][0]), {"audio": noise}, {}, {},
    {"audio": solvers.schedule(steps, shift)}, method, None,
  )  # fmt: skip

  def theirs(state, sigma):
    return {"audio": torch.sin(2 * state["audio"]) + sigma * state["audio"]}

  got = torch_solvers.solve(
    theirs, {"audio": torch.tensor(noise)}, method, steps, shift
  )
  assert error(expected, got) <= 1e-5


def asked(task, b=2):
  """(noise, given, text, negative) for a task."""
  state, _, text, _ = jax.tree.map(lambda x: x[:b], inputs())
  plan = tasks.inference_task(task)
  given = {s: 2 * state[s][::-1].copy() for s in plan.given}
  if plan.first_frame:
    given["video"] = 2 * state["video"][::-1, :1].copy()
  noise = {s: state[s] for s in plan.streams}
  return noise, given, text, text[:1, ::-1].copy()


def image_for(b=2):
  rng = np.random.default_rng(2)
  latents = rng.standard_normal((b, F, H, W, 4), np.float32)
  return Image(latents, rng.standard_normal((b, 8, 7), np.float32))


@pytest.mark.parametrize(
  "task, method, row, options, image",
  [
    ("t2av", "unipc", "sync", WINDOW, None),
    ("i2av", "euler", "ucg3", WINDOW, None),
    ("i2av", "euler", "ucg3", {}, image_for()),
    ("t2v", "unipc", "ucg2", {"guidance_every": 2}, None),
    ("i2v", "unipc", "text", {"guidance_rescale": 0.4}, None),
    ("t2a", "euler", "none", {}, None),
    ("a2v", "unipc", "ucg3_text_first", {}, None),
    ("v2a", "unipc", "multimodal", {}, None),
  ],
  ids=lambda x: {dict: "-".join, Image: lambda _: "image"}.get(type(x), str)(x),
)
def test_latents_of_every_task(task, method, row, options, image):
  """JAX's guidance and sampler, calling PyTorch for the velocity."""
  model, (noise, given, text, negative) = theirs("image"), asked(task)
  given = {} if image else given

  def called(*given):
    return to_numpy(model(*to_torch(given)))

  def velocity(state, t, condition):
    shapes = {
      s: jax.ShapeDtypeStruct(x.shape, x.dtype) for s, x in state.items()
    }
    args = state, t, condition.text, condition.route
    args += (condition.image,) if image else ()
    return jax.pure_callback(called, shapes, *args)

  options = options | dict(
    solver=method, num_inference_steps=4, guidance=row,
    audio_cross_guidance_scale=1.5,
  )  # fmt: skip
  plan = tasks.inference_task(task)
  chosen = SamplingConfig(**SCALES, **options, shift=3.0)
  rows = guidance.rule(row), guidance.rule("none")
  guide = functools.partial(guidance.guide, velocity, scales=chosen.scales)
  guided = guide(rows[0], rescale=chosen.guidance_rescale)
  plain = guide(rows[1])
  condition = Condition(
    text=text,
    negative=np.broadcast_to(negative, text.shape),
    route=plan.route(len(text)),
    null=null_latents(),
    image=image,
  )
  sigmas = dict.fromkeys(noise, solvers.schedule(4, 3.0))
  expected, _ = solvers.solve(
    guided, noise, {} if image else plan.clean(noise), given,
    sigmas, method, condition, chosen.window, plain,
    every=chosen.guidance_every,
  )  # fmt: skip
  model.config = model.config | {"sampling": SCALES | {"shift": 3.0}}
  images = {} if image is None else {"image": image}
  got = torch_sampling.sample(
    model, task, *to_torch((text, negative)), given=to_torch(given | images),
    noise=to_torch(noise), null=to_torch(null_latents()), **options,
  )  # fmt: skip
  print(task, row, error(expected, got))
  assert error(expected, got) <= LIMIT
  for s, x in given.items():
    np.testing.assert_array_equal(got[s][:, : x.shape[1]], x)


def test_from_a_run_to_an_mp4(run, tmp_path):
  """The same latents of the same noise, all of it in JAX and in PyTorch."""
  export.to_torch(run, tmp_path / "export")
  model = torch_model.CCL.from_pretrained(tmp_path / "export")
  pipeline, seeds = Pipeline.load(run), [3, 4]
  text = stages.embed(pipeline, ["A face.", 'It says "a".', ""])
  text, negative = text[:2], text[2:]
  shapes = pipeline.shape.latent_shapes(pipeline.codecs)
  keys = jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32))
  noise = flow.draw_noise(keys, shapes)
  given = {"video": 2 * noise["video"][::-1, :1]}
  expected, _ = stages.sample(
    pipeline, tasks.inference_task("i2av"), text, negative,
    stages.EncodedInputs(given), seeds,
  )  # fmt: skip
  got = torch_sampling.sample(
    model, "i2av", *to_torch((text, negative)), given=to_torch(given),
    noise=to_torch(noise),
  )  # fmt: skip
  print("from a run", error(expected, got))
  assert error(expected, got) <= LIMIT
  clips = stages.decode(pipeline, to_numpy(got))
  assert clips[0].save(tmp_path / "clip.mp4").exists()
  drawn = torch_sampling.draw_noise(model.config, STREAMS, seeds)
  assert {s: x.shape for s, x in drawn.items()} == {
    s: (2, *shape) for s, shape in shapes.items()
  }
  again = torch_sampling.draw_noise(model.config, ["audio"], seeds[1:])
  assert torch.equal(again["audio"][0], drawn["audio"][1])


def test_wrong_requests_are_named():
  wrong = {
    "expected one of t2av": dict(task="v2v"),
    r"got the inputs \('audio',\)": dict(
      task="t2av", given={"audio": torch.zeros(2, 6, 2)}
    ),
    r"\('video',\) or \('image',\)": dict(task="i2v"),
    "unipc": dict(task="t2a", solver="heun"),
    "setting 'step'": dict(task="t2a", step=20),
    "ucg2": dict(task="t2a", guidance="cfg"),
    "negative": dict(task="t2a", guidance="ucg2", negative=None),
    "nulls the": dict(
      task="t2a", guidance="sync", null=to_torch(null_latents())
    ),
  }
  text = torch.zeros(2, L, 6)
  for words, arguments in wrong.items():
    task = arguments.pop("task")
    arguments = (
      dict(
        num_inference_steps=1, solver="euler", guidance="none", negative=text
      )
      | arguments
    )
    noise, *_ = asked(task if task in torch_sampling.TASKS else "t2av")
    with pytest.raises(ValueError, match=words):
      torch_sampling.sample(
        theirs("cca"), task, text, noise=to_torch(noise), **arguments
      )

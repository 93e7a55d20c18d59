"""The PyTorch CCL against the JAX model, its guidance and its samplers."""

import dataclasses
import functools
import inspect
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from ccl_jax.attention import Attention
from ccl_jax.convert import ccl, export
from ccl_jax.convert.load import dump
from ccl_jax.data.decoding import decode
from ccl_jax.diffusion import flow, guidance, sampler, tasks
from ccl_jax.models import joint
from ccl_jax.models.fusion import Scene, make_fusion
from ccl_jax.models.fusion.cca import CCA, POSITIONS, frame_times
from ccl_jax.models.fusion.gated import make_gated
from ccl_jax.pipeline import Pipeline
from ccl_jax.sampling import Sampling
from ccl_jax.sharding import ONE_DEVICE
from ccl_jax.types import STREAMS, Route
from tests.convert.joints import MODELS, draw, random_like
from tests.runs import run  # noqa: F401

FUSED = ("fine", "no tarp", "no dcr", "one context", "gated", "gated tarp")
torch = pytest.importorskip("torch")
torch_model = pytest.importorskip("ccl_jax.convert.torch_model")
torch_sampling = pytest.importorskip("ccl_jax.convert.torch_sampling")
LIMIT = 1e-4
B, F, H, W, L = 9, 3, 4, 6, 5
SCALES = {"video": (4.0, 2.5), "audio": (3.0, 2.5)}
OPTIONS = dict(video_scale=4.0, audio_scale=3.0, cross_scale=2.5)


@functools.cache
def ours(kind, dtype="float32"):
  """(graph, parameters, compiled velocity)."""
  graph, params = draw(kind, compute=dtype)
  velocity = jax.jit(functools.partial(joint.velocity, graph, params))
  return graph, params, velocity


@functools.cache
def arrays(kind):
  """The state dict of the same model, as numpy arrays."""
  return dict(dump(ours(kind)[1], ccl.table(MODELS[kind])))


@functools.cache
def theirs(kind):
  model = torch_model.CCL(MODELS[kind])
  tensors = {name: torch.tensor(x) for name, x in arrays(kind).items()}
  model.load_state_dict(tensors, strict=True)
  return model.requires_grad_(False)


def route(*names, exchanges=None):
  """Of training tasks."""
  index = jnp.array([tasks.TASK_NAMES.index(name) for name in names])
  ones = jnp.ones(len(names), bool)
  made = tasks.route_of(index, ones, ones)
  return made if exchanges is None else made._replace(exchanges=exchanges)


@functools.cache
def inputs():
  """(state, t, text, route): every route, the first frame given, and none."""
  rng = np.random.default_rng(0)
  state = {
    "video": rng.standard_normal((B, F, H, W, 3)),
    "audio": rng.standard_normal((B, F * 2, 2)),
  }
  names = ["apart", "a2v", "v2a", "joint", "joint", "joint", "a2v", "v2a"]
  routes = route(*names, "apart", exchanges=jnp.arange(B) != 5)
  t = rng.uniform(0.02, 1, B)
  times = {s: np.where(routes.is_generated(s), t, 0) for s in STREAMS}
  times["video"] = np.repeat(times["video"][:, None, None], F, 1)
  times["video"][4, 0] = 0  # i2av
  times["video"][8, 0] = 0  # i2v
  text = rng.standard_normal((B, L, 6))
  floats = jax.tree.map(
    lambda x: jnp.asarray(x, "float32"), (state, times, text)
  )
  return (*floats, routes)


def to_torch(x):
  if isinstance(x, Route):
    x = x._asdict()
  if isinstance(x, dict):
    return {name: to_torch(a) for name, a in x.items()}
  if isinstance(x, tuple):
    return tuple(map(to_torch, x))
  return torch.tensor(np.asarray(x))


def to_numpy(state):
  return {s: np.asarray(x) for s, x in state.items()}


def error(ours, theirs, by_sample=True):
  """Relative in the L2 norm: the largest of any stream, and sample."""
  worst = 0.0
  for s in ours:
    x, y = (np.asarray(a[s], np.float64) for a in (ours, theirs))
    assert x.shape == y.shape
    axes = tuple(range(int(by_sample), x.ndim))
    norms = [np.sqrt(np.square(a).sum(axes)) for a in (x - y, x)]
    worst = max(worst, float((norms[0] / norms[1]).max()))
  return worst


def test_velocity_of_every_route():
  expected, got = ours("cca")[2](*inputs()), theirs("cca")(*to_torch(inputs()))
  print(error(expected, got))
  assert error(expected, got) <= LIMIT


@pytest.mark.parametrize("kind", FUSED)
def test_what_streams_read_of_each_other(kind):
  """One layer's exchange, of every fusion and its switches."""
  model = torch_model.CCL(MODELS[kind])
  graph, params = fusion_of(model)
  rng, routes = np.random.default_rng(1), inputs()[3]
  grids = {"video": (F, 2, 3), "audio": (F, 1, 2)}
  x = {
    s: jnp.asarray(rng.standard_normal((B, F, h * w, d)), "float32")
    for (s, (_, h, w)), d in zip(grids.items(), (32, 20), strict=True)
  }
  scene = Scene(grids, F, routes, Attention(None, ONE_DEVICE))
  expected = jax.jit(lambda p, x: nnx.merge(graph, p).exchange(x, scene))(
    params, x
  )
  y, sides = to_torch(x), model.sides(grids, to_torch(routes), "cpu")
  got = {
    s: model.fusion[1][s](y[s], y[torch_model.OTHER[s]], *side) - y[s]
    for s, side in sides.items()
  }
  assert got.keys() == expected.keys()
  print(kind, error(expected, got, by_sample=False))
  assert error(expected, got, by_sample=False) <= LIMIT


def fusion_of(model):
  """(graph, parameters) of JAX's for one layer; the model's get them too."""
  options = model.config["fusion"]
  widths, head_sizes = dict(video=32, audio=20), dict(video=16, audio=10)
  graph, shapes = nnx.split(
    nnx.eval_shape(
      lambda: make_fusion(
        options, widths=widths, head_sizes=head_sizes, rngs=nnx.Rngs(0),
        dtype=jnp.float32,
      )
    )
  )  # fmt: skip
  stacked = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((2, *x.shape), x.dtype),
    nnx.to_pure_dict(shapes),
  )
  params = random_like({"fusion": stacked})
  model.requires_grad_(False)
  rules = [r for r in ccl.table(model.config) if "fusion" in r.theirs[0]]
  tensors = {name: torch.tensor(x) for name, x in dump(params, rules)}
  assert not model.load_state_dict(tensors, strict=False).unexpected_keys
  return graph, jax.tree.map(lambda x: x[1], params["fusion"])


@pytest.mark.parametrize("positions", POSITIONS)
def test_positions_in_time(positions):
  expected = frame_times(positions, 7, 5, 24.0)
  got = torch_model.frame_times(positions, 7, 5, 24.0)
  for s, x in expected.items():
    np.testing.assert_array_equal(got[s], x)


def test_what_a_config_leaves_out():
  """Defaults are those of JAX."""
  sampling = {f.name: f.default for f in dataclasses.fields(Sampling)}
  assert torch_sampling.DEFAULTS.items() <= sampling.items()
  for make, extra in ((CCA, {}), (make_gated, torch_model.GATED)):
    options = torch_model.DEFAULTS | extra
    for name, parameter in inspect.signature(make).parameters.items():
      assert options.get(name, parameter.default) == parameter.default


@pytest.mark.parametrize("stream", STREAMS)
def test_a_stream_alone(stream):
  """Is one that sees nothing; without a fusion, one that drops it."""
  state, t, text, routes = inputs()
  no = jnp.zeros(B, bool)
  for model, change in (
    (theirs("cca"), dict(video_sees_audio=no, audio_sees_video=no)),
    (tower(stream), dict(exchanges=no)),
  ):
    routed = routes._replace(**change)
    expected = {stream: ours("cca")[2](state, t, text, routed)[stream]}
    alone = {stream: state[stream]}, {stream: t[stream]}, text, routes
    assert error(expected, model(*to_torch(alone))) <= LIMIT


def tower(stream):
  """The stream of the "cca" model in one that has nothing else."""
  model = torch_model.CCL(MODELS[stream])
  tensors = {
    name: torch.tensor(x)
    for name, x in arrays("cca").items()
    if name.startswith(stream)
  }
  model.load_state_dict(tensors, strict=True)
  return model.requires_grad_(False)


def test_a_time_for_each_sample_frame_or_token():
  model = theirs("cca")
  state, t, text, routes = to_torch(inputs())
  t = {s: x.flatten(1)[:, -1] if x.ndim > 1 else x for s, x in t.items()}
  frames = {s: x[:, None, None].expand(B, F, 1) for s, x in t.items()}
  tokens = {"video": frames["video"].expand(B, F, 6),
            "audio": frames["audio"].expand(B, F, 2)}  # fmt: skip
  once = model(state, t, text, routes)
  for times in (frames, tokens):
    assert error(once, model(state, times, text, routes)) < 1e-5


def test_gradient_does_not_enter_a_reference():
  state, t, text, routes = to_torch(inputs())
  for s in STREAMS:
    leaf = state[s].clone().requires_grad_()
    other = torch_model.OTHER[s]
    made = theirs("cca")(state | {s: leaf}, t, text, routes)[other]
    (gradient,) = torch.autograd.grad(made.square().sum(), leaf)
    reached = gradient.flatten(1).abs().amax(1) > 0
    assert reached.tolist() == [i in (3, 4) for i in range(B)]


# bfloat16: each is as far from float32 as the other, and so from each other.
BOUND = 3e-2


def test_bfloat16():
  exact = ours("cca")[2](*inputs())
  expected = ours("cca", "bfloat16")[2](*inputs())
  model = torch_model.CCL(MODELS["cca"])
  tensors = {
    name: torch.tensor(x).to(torch_model.dtype_of(name, torch.bfloat16))
    for name, x in arrays("cca").items()
  }
  model.load_state_dict(tensors, strict=True, assign=True)
  got = model.requires_grad_(False)(*to_torch(inputs()))
  assert {x.dtype for x in got.values()} == {torch.float32}
  errors = error(expected, got), error(exact, expected), error(exact, got)
  print("bfloat16: to each other, jax, torch", errors)
  assert max(errors) <= BOUND
  assert errors[2] <= 1.5 * errors[1]


def test_video_stream_in_diffusers():
  from diffusers import WanTransformer3DModel

  video = MODELS["cca"]["video"]
  original = WanTransformer3DModel(
    num_attention_heads=video["heads"], attention_head_dim=16, in_channels=3,
    out_channels=3, text_dim=6, freq_dim=8, ffn_dim=video["ffn"], num_layers=2,
  )  # fmt: skip
  tensors = {
    name.removeprefix("video."): torch.tensor(x)
    for name, x in arrays("cca").items()
    if name.startswith("video.")
  }
  original.load_state_dict(tensors, strict=True)
  state, t, text, routes = to_torch(inputs())
  routes["exchanges"] = torch.zeros(B, dtype=torch.bool)
  got = theirs("cca")(
    {"video": state["video"]}, {"video": t["video"]}, text, routes
  )
  times = 1000 * t["video"].expand(B, F, 6).flatten(1)
  with torch.no_grad():
    expected = original(state["video"].movedim(-1, 1), times, text).sample
  assert error({"video": expected.movedim(1, -1)}, got) <= LIMIT


def null_latents():
  state, *_ = inputs()
  return {s: 0.3 * x[-1:] for s, x in state.items()}


def our_guided(kind, row):
  """JAX's guidance of the one program for B samples, filled up."""

  def velocity(state, t, condition):
    given = state, t, condition["text"], condition["route"]
    n = len(given[2])
    filled = jax.tree.map(
      lambda x, y: jnp.concatenate([x, y[n:]]), given, inputs()
    )
    return jax.tree.map(lambda x: x[:n], ours(kind)[2](*filled))

  scales = Sampling(guidance=row, **OPTIONS).scales
  return guidance.guided(velocity, guidance.row(row), scales)


@pytest.mark.parametrize("row", guidance.ROWS)
def test_guidance(row):
  state, t, text, routes = jax.tree.map(lambda x: x[2:5], inputs())
  negative = text[::-1].copy()
  condition = {"text": text, "negative": negative, "route": routes}
  expected = our_guided("cca", row)(
    state, t, condition | {"null": null_latents()}
  )
  got = torch_sampling.guided(
    theirs("cca"), row, SCALES, to_torch(state), to_torch(t),
    to_torch({"c": text, "n": negative}), to_torch(routes),
    to_torch(null_latents()),
  )  # fmt: skip
  print(row, error(expected, got))
  assert error(expected, got) <= LIMIT


def test_rows_are_those_of_jax():
  assert torch_sampling.ROWS.keys() == guidance.ROWS.keys()
  assert torch_sampling.SOLVERS.keys() == sampler.SOLVERS.keys()
  assert torch_sampling.TASKS.keys() == tasks.INFERENCE_TASKS.keys()
  for name, plan in tasks.INFERENCE_TASKS.items():
    assert torch_sampling.TASKS[name] == (plan.streams, plan.given)
    expected = plan.route(2)._asdict()
    got = torch_sampling.make_route([name] * 2)
    assert got.keys() == expected.keys()
    for field, x in expected.items():
      np.testing.assert_array_equal(got[field], x)


@pytest.mark.parametrize("steps, shift", [(1, 1.0), (2, 3.0), (12, 5.0)])
@pytest.mark.parametrize("method", sampler.SOLVERS)
def test_solvers(method, steps, shift):
  noise = inputs()[0]["audio"]

  def field(state, t):
    return {"audio": jnp.sin(2 * state["audio"]) + t * state["audio"]}

  expected = sampler.sample(
    lambda state, t, _: field(state, t["audio"][0]), {"audio": noise}, {}, {},
    sampler.schedule(steps, shift), method, None,
  )  # fmt: skip

  def theirs(state, sigma):
    return {"audio": torch.sin(2 * state["audio"]) + sigma * state["audio"]}

  got = torch_sampling.solve(
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


def their_latents(task, **settings):
  noise, given, text, negative = to_torch(asked(task))
  model = theirs("cca")
  model.config["sampling"] = OPTIONS | {"shift": 3.0}
  return torch_sampling.sample(
    model, task, text, negative, given=given, noise=noise,
    null=to_torch(null_latents()), **settings,
  )  # fmt: skip


def test_from_a_run_to_an_mp4(run, tmp_path):  # noqa: F811
  """The same latents of the same noise, all of it in JAX and in PyTorch."""
  export.to_torch(run, tmp_path / "export")
  model = torch_model.CCL.from_pretrained(tmp_path / "export")
  pipeline, seeds = Pipeline.load(run), [3, 4]
  text = pipeline.embed(["A face.", 'It says "a".', ""])
  text, negative = text[:2], text[2:]
  shapes = pipeline.shape.latents(pipeline.codecs)
  keys = jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32))
  noise = flow.draw_noise(keys, shapes)
  given = {"video": 2 * noise["video"][::-1, :1]}
  expected = pipeline.sample("i2av", text, negative, given, seeds)
  got = torch_sampling.sample(
    model, "i2av", *to_torch((text, negative)), given=to_torch(given),
    noise=to_torch(noise),
  )  # fmt: skip
  print("from a run", error(expected, got))
  assert error(expected, got) <= LIMIT
  clips = decode(to_numpy(got), pipeline.codecs, pipeline.shape)
  assert clips[0].save(tmp_path / "clip.mp4").exists()
  drawn = torch_sampling.draw_noise(model.config, STREAMS, seeds)
  assert {s: x.shape for s, x in drawn.items()} == {
    s: (2, *shape) for s, shape in shapes.items()
  }
  again = torch_sampling.draw_noise(model.config, ["audio"], seeds[1:])
  assert torch.equal(again["audio"][0], drawn["audio"][1])


@pytest.mark.parametrize(
  "task, method, row",
  [
    ("t2av", "unipc", "sync"),
    ("i2av", "euler", "ucg3"),
    ("t2v", "unipc", "ucg2"),
    ("i2v", "unipc", "text"),
    ("t2a", "euler", "none"),
    ("a2v", "unipc", "ucg3_text_first"),
    ("v2a", "unipc", "ucg2"),
  ],
)
def test_latents_of_every_task(task, method, row):
  """JAX's guidance and sampler, calling PyTorch for the velocity."""

  def called(*given):
    return to_numpy(theirs("cca")(*to_torch(given)))

  def velocity(state, t, condition):
    shapes = {
      s: jax.ShapeDtypeStruct(x.shape, x.dtype) for s, x in state.items()
    }
    given = state, t, condition["text"], condition["route"]
    return jax.pure_callback(called, shapes, *given)

  noise, given, text, negative = asked(task)
  options = dict(
    method=method, steps=4, guidance=row, rescale=0.4, audio_cross_scale=1.5,
    guidance_low=0.2, guidance_high=0.9,
  )  # fmt: skip
  plan = tasks.inference_task(task)
  chosen = Sampling(**OPTIONS, **options, shift=3.0)
  rows = guidance.row(row), guidance.row("none")
  guide = functools.partial(guidance.guided, velocity, scales=chosen.scales)
  guided, plain = guide(rows[0], rescale=chosen.rescale), guide(rows[1])
  condition = {
    "text": text,
    "negative": np.broadcast_to(negative, text.shape),
    "route": plan.route(len(text)),
    "null": null_latents(),
  }
  expected = sampler.sample(
    guided, noise, plan.clean(noise), given, sampler.schedule(4, 3.0), method,
    condition, chosen.window, plain,
  )  # fmt: skip
  got = their_latents(task, **options)
  assert error(expected, got) <= LIMIT
  for s, x in given.items():
    np.testing.assert_array_equal(got[s][:, : x.shape[1]], x)


def save(folder, kind="cca", shards=1, drop=(), **config):
  """What the exporter writes."""
  folder = folder / "transformer"
  folder.mkdir(parents=True)
  tensors = {n: x for n, x in arrays(kind).items() if n not in drop}
  names = sorted(tensors)
  stem = "diffusion_pytorch_model"
  for i in range(shards):
    part = {name: tensors[name] for name in names[i::shards]}
    numbered = f"-{i + 1:05d}-of-{shards:05d}" if shards > 1 else ""
    save_file(part, folder / f"{stem}{numbered}.safetensors")
  about = {"_class_name": "CCL", "ccl_version": 1} | MODELS[kind] | config
  (folder / "config.json").write_text(json.dumps(about))
  return folder.parent


@pytest.mark.parametrize("kind, shards", [("cca", 1), ("gated", 3)])
def test_from_pretrained(tmp_path, kind, shards):
  model = torch_model.CCL.from_pretrained(save(tmp_path, kind, shards))
  given = to_torch(inputs())
  same, expected = model(*given), theirs(kind)(*given)
  for s, x in expected.items():
    assert torch.equal(same[s], x)


def test_from_pretrained_in_bfloat16(tmp_path):
  folder = save(tmp_path, dtype="bfloat16")
  model = torch_model.CCL.from_pretrained(folder)
  dtypes = {name: p.dtype for name, p in model.named_parameters()}
  assert dtypes["video.blocks.1.attn1.to_q.weight"] == torch.bfloat16
  assert dtypes["fusion.0.audio.context"] == torch.bfloat16
  assert dtypes["video.blocks.1.scale_shift_table"] == torch.float32
  assert dtypes["fusion.0.video.norm_k.weight"] == torch.float32
  whole = torch_model.CCL.from_pretrained(folder, dtype=torch.float32)
  assert {p.dtype for p in whole.parameters()} == {torch.float32}
  given = to_torch(inputs())
  assert error(whole(*given), model(*given)) <= BOUND


def test_wrong_exports_are_named(tmp_path):
  load = torch_model.CCL.from_pretrained
  with pytest.raises(ValueError, match=r"no '.*config.json'.*to-torch"):
    load(tmp_path)
  name = "fusion.1.video.to_k.weight"
  with pytest.raises(RuntimeError, match=f"(?s)Missing key.*{name}"):
    load(save(tmp_path / "missing", drop=[name]))
  with pytest.raises(RuntimeError, match=r"(?s)Unexpected key.*fusion"):
    load(save(tmp_path / "extra", fusion=dict(kind="independent")))
  with pytest.raises(RuntimeError, match="size mismatch"):
    load(save(tmp_path / "shape", text_width=7))
  with pytest.raises(ValueError, match=r"WanTransformer3DModel.*diffusers"):
    load(save(tmp_path / "wan", _class_name="WanTransformer3DModel"))
  with pytest.raises(ValueError, match=r"2.*expected"):
    load(save(tmp_path / "new", ccl_version=2))


def test_wrong_requests_are_named():
  wrong = {
    "expected one of t2av": dict(task="v2v"),
    "is given": dict(task="t2av", given={"audio": torch.zeros(2, 6, 2)}),
    "unipc": dict(task="t2a", method="heun"),
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
      dict(steps=1, method="euler", guidance="none", negative=text) | arguments
    )
    noise, *_ = asked(task if task in torch_sampling.TASKS else "t2av")
    with pytest.raises(ValueError, match=words):
      torch_sampling.sample(
        theirs("cca"), task, text, noise=to_torch(noise), **arguments
      )
  state, t, text, routes = to_torch(inputs())
  with pytest.raises(ValueError, match="same frames"):
    state = state | {"audio": state["audio"][:, :4]}
    theirs("cca")(state, t, text, routes)

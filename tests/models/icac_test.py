"""Audio in context: the five fusions, by what each token may read."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.array_types import Route
from ccl_jax.attention import Attention
from ccl_jax.models import functional
from ccl_jax.models.audio_grid import AudioGrid
from ccl_jax.models.fusion import FusionContext
from ccl_jax.models.fusion.attention_3d import Attention3D
from ccl_jax.models.fusion.icac import ATTENTIONS
from ccl_jax.params.sharding import ONE_DEVICE, Layout, make_mesh
from configs.ccl import get_config
from tests.models import tiny

FRAME_LAYERS = ATTENTIONS[:3]
B, F, S = 2, 3, 5  # samples; real frames; video tokens of each


def settings(heads=1, layers=1, **fusion):
  video = tiny.SETTINGS["video"] | {"heads": heads}
  audio = dict(
    in_context=True, width=24, ffn=32, heads=heads, channels=2,
    tokens_per_frame=2,
  )  # fmt: skip
  return tiny.SETTINGS | dict(
    num_layers=layers,
    video=video,
    audio=audio,
    fusion={"kind": "icac"} | fusion,
  )


@functools.cache
def model(layout=ONE_DEVICE, **options):
  """(velocity, random parameters)."""
  graph, shapes = functional.describe(settings(**options), layout)
  run = jax.jit(functools.partial(functional.velocity, graph))
  return run, tiny.randomize(shapes)


def inputs(sees=True, exchanges=True):
  """Of a2v, or with the sound switched off."""
  state, t, text, _ = tiny.inputs(b=B)
  no, yes = jnp.zeros(B, bool), jnp.ones(B, bool)
  route = Route(
    {"video": yes & sees, "audio": no},
    {"video": yes, "audio": no},
    yes & exchanges,
  )
  return state, t | {"audio": jnp.zeros(B)}, text, route


def shared_of(frames, padded, c, sees):
  """What layers share, with S video tokens in each frame."""
  f, yes = frames + padded, jnp.ones(B, bool)
  seen = {"video": jnp.array(sees), "audio": jnp.zeros(B, bool)}
  route = Route(seen, {"video": yes, "audio": yes}, yes)
  grids = {"video": (f, 1, S), "audio": (f, 1, AudioGrid(f, c).slots)}
  return FusionContext(grids, frames, route, Attention("reference"), c)


def matrix(shared, is_masked, sample):
  """Who sees whom, video before audio, token by token."""
  (f, _, _), audio = shared.grids["video"], shared.audio_grid
  frame = np.r_[
    np.repeat(np.arange(f), S), np.repeat(np.arange(f), audio.slots)
  ]
  is_video = np.arange(len(frame)) < f * S
  both = is_video[:, None] & is_video
  same = frame[:, None] == frame
  seen = both | same if is_masked else np.ones_like(both)
  meets = bool(shared.route.sees["video"][sample])
  seen &= meets | (is_video[:, None] == is_video)
  is_real = frame < shared.frames
  hidden = np.r_[np.zeros(f * S, bool), audio.is_padding]
  return seen & is_real & ~hidden, is_real & ~hidden


def dense(qkv, seen):
  """Attention by a matrix."""
  q, k, v = (
    jnp.concatenate(pair, 1)
    for pair in zip(qkv["video"], qkv["audio"], strict=True)
  )
  logits = jnp.einsum("bnke,bmke->bknm", q, k) / q.shape[-1] ** 0.5
  weights = jax.nn.softmax(jnp.where(seen[:, None], logits, -1e30))
  return jnp.einsum("bknm,bmke->bnke", weights, v)


def draw(shared, heads=3):
  """Random queries, keys and values of both streams."""
  rng, b = np.random.default_rng(0), len(shared.route.exchanges)

  def normal(n):
    return jnp.asarray(rng.standard_normal((b, n, heads, 8), np.float32))

  return {
    s: tuple(normal(f * h * w) for _ in range(3))
    for s, (f, h, w) in shared.grids.items()
  }


def value_and_gradients(attend, qkv, counts=slice(None)):
  """Of an uneven function of the tokens that count, video before audio."""

  def value(qkv):
    out = attend(qkv)
    if isinstance(out, dict):
      out = jnp.concatenate([out["video"], out["audio"]], 1)
    return jnp.sum(jnp.sin(out[:, counts])), out[:, counts]

  return jax.jit(jax.grad(value, has_aux=True))(qkv)


def assert_equal(a, b):
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)


def make(form):
  """The fusion of 3-D attention in a form, without positions."""
  masked, form = form != "full3d", "blocks" if form == "blocks" else "merged"
  return Attention3D(masked, form, "none", {"video": 8, "audio": 8})


@pytest.mark.parametrize("c", [2, 2.6], ids="{} latents".format)
@pytest.mark.parametrize("padded", [0, 2], ids="{} padded".format)
@pytest.mark.parametrize("form", ["merged", "blocks", "full3d"])
def test_joint_attention_equals_its_matrix_in_value_and_gradients(
  form, padded, c
):
  shared = shared_of(F, padded, c, sees=(True, False))
  masks = [matrix(shared, form != "full3d", i) for i in range(B)]
  seen, counts = np.stack([m for m, _ in masks]), masks[0][1]
  qkv = draw(shared)
  assert_equal(
    value_and_gradients(
      lambda qkv: make(form).attend(qkv, shared), qkv, counts
    ),
    value_and_gradients(lambda qkv: dense(qkv, seen), qkv, counts),
  )


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_which_frames_hear_the_sound_of_one(attention):
  run, params = model(attention=attention)
  state, *rest = inputs()
  other = state | {"audio": state["audio"].at[:, 2:4].add(1)}  # of frame 1
  before, after = (run(params, x, *rest)["video"] for x in (state, other))
  moved = np.abs(after - before).max((0, 2, 3, 4)) > 1e-6
  expected = [True] * 3 if attention == "full3d" else [False, True, False]
  assert moved.tolist() == expected


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_whose_audio_tokens_are_updated(attention):
  graph, _ = functional.describe(settings(attention=attention))
  _, params = model(attention=attention)

  @jax.jit
  def moved(params, *given):
    bound = functional.bind(graph, params)
    embedded = bound.embed(*given)
    tokens, _ = bound.run_layers(embedded)
    return jnp.abs(tokens["audio"] - embedded.x["audio"]).max()

  frozen = attention in ("cross2d", "self2d_frozen")
  assert (moved(params, *inputs()) == 0) == frozen


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("off", ["sees", "exchanges"])
def test_without_sound_a_sample_equals_the_video_alone(attention, off):
  run, params = model(attention=attention)
  state, t, text, route = inputs(**{off: False})
  both = run(params, state, t, text, route)["video"]
  if off == "exchanges" and attention.startswith("self2d"):
    params = without_layers(params)  # the layer is off as a whole
  video = {"video": state["video"]}, {"video": t["video"]}
  alone = run(params, *video, text, inputs()[-1])["video"]
  np.testing.assert_allclose(both, alone, rtol=1e-4, atol=1e-5)


def without_layers(params):
  return params | {"fusion": jax.tree.map(jnp.zeros_like, params["fusion"])}


@pytest.mark.parametrize("attention", FRAME_LAYERS)
def test_a_new_layer_adds_nothing(attention):
  made = functional.init_params(
    settings(attention=attention), jax.random.key(0)
  )
  output = made["fusion"]["video"]["attention"]["o"]
  assert not any(x.any() for x in jax.tree.leaves(output))


def test_positions_of_audio_tokens_are_three():
  outputs = []
  for rope_audio in ("same_t_offgrid", "same_t_zero", "none"):
    run, params = model(rope_audio=rope_audio, attention="full3d")
    outputs.append(run(params, *inputs())["video"])
  for i, a in enumerate(outputs):
    assert all(jnp.abs(a - b).max() > 1e-4 for b in outputs[i + 1 :])


def layout_of(mode="gather", **sizes):
  rules = get_config("size=tiny").sharding.activations
  mesh = make_mesh(jax.devices(), **{"data": 2, "context": 2} | sizes)
  return Layout(mesh, ((".*", ()),), rules, self_attention=mode)


@pytest.mark.parametrize(
  ("form", "mode"),
  [("merged", "gather"), ("merged", "ulysses"), ("blocks", "ulysses"),
   ("full3d", "gather"), ("full3d", "ulysses")],
)  # fmt: skip
def test_joint_attention_on_a_mesh_equals_one_device(form, mode):
  """Three frames and one of padding on a context axis of two."""
  layout = layout_of(mode, fsdp=1, tensor=2)
  shared = shared_of(F, 1, 2.6, sees=(True, False))
  qkv, fusion = draw(shared, heads=4), make(form)
  _, counts = matrix(shared, True, 0)
  split = shared._replace(attention=Attention(None, layout))
  assert_equal(
    *(
      value_and_gradients(lambda qkv, x=x: fusion.attend(qkv, x), qkv, counts)
      for x in (split, shared)
    )
  )


@pytest.mark.parametrize("attention", ["self2d", "masked3d"])
def test_a_mesh_equals_one_device(attention):
  """Three frames on a context axis of two, two heads on a tensor axis."""
  given, layout = inputs(), layout_of(fsdp=1, tensor=2)

  def outputs(layout):
    run, params = model(layout, heads=2, attention=attention)
    return run(params, *given)["video"]

  np.testing.assert_allclose(
    outputs(layout), outputs(ONE_DEVICE), rtol=1e-4, atol=1e-5
  )


def test_blocks_are_not_split_by_gathered_keys():
  shared = shared_of(F, 1, 2, sees=(True, True))
  layout = layout_of(fsdp=1, tensor=2)
  split = shared._replace(attention=Attention(None, layout))
  with pytest.raises(ValueError, match="merged form"):
    make("blocks").attend(draw(shared, heads=2), split)


def check_audio_is_run_once(image=None, **options):
  """Velocity from the cache of the audio is that of both streams."""
  graph, _ = functional.describe(settings(**options))
  run, params = model(**options)
  state, t, text, route = inputs()
  expected = run(params, state, t, text, route, image)["video"]

  @jax.jit
  def cached(params):
    audio = {"audio": state["audio"]}
    cache = functional.make_kv_cache(graph, params, [(audio, text)], route)
    cache = type(cache)(cache.contexts, cache.runs, reads=(0,))
    video = {"video": state["video"]}, {"video": t["video"]}
    return functional.velocity(graph, params, *video, text, route, image, cache)

  np.testing.assert_allclose(
    cached(params)["video"], expected, rtol=1e-4, atol=1e-5
  )


@pytest.mark.parametrize("attention", ["cross2d", "self2d_frozen"])
def test_audio_that_is_never_updated_is_run_once(attention):
  check_audio_is_run_once(attention=attention)


@pytest.mark.parametrize("attention", ["self2d", "full3d", "masked3d"])
def test_audio_that_reads_the_video_cannot_be_run_once(attention):
  graph, shapes = functional.describe(settings(attention=attention))
  state, _, text, route = inputs()
  with pytest.raises(ValueError, match="cache_reference=False"):
    jax.eval_shape(
      lambda p: functional.make_kv_cache(
        graph, p, [({"audio": state["audio"]}, text)], route
      ),
      shapes,
    )


@pytest.mark.parametrize(
  ("change", "words"),
  [
    (dict(fusion=dict(kind="icac", attention="4d")), "masked3d"),
    (dict(fusion=dict(kind="icac", form="one")), "merged, blocks"),
    (dict(fusion=dict(kind="icac", rope_audio="t")), "same_t_zero"),
    (dict(audio=None), "expected video and audio"),
    (
      dict(audio=settings()["audio"] | {"width": 12}),
      "model.audio.in_context needs the video",
    ),
    (
      dict(audio=tiny.SETTINGS["audio"] | {"width": 24}, fusion=dict(
        kind="icac", attention="cross2d")),
      "expected model.audio.in_context=True",
    ),
    (dict(video=None), "needs the video stream"),
  ],
)  # fmt: skip
def test_wrong_settings_are_named(change, words):
  with pytest.raises(ValueError, match=words):
    functional.describe(settings() | change)

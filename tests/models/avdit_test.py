"""AV-DiT: a frozen image model, and what learns beside it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ccl_jax.array_types import Route
from ccl_jax.attention import Attention
from ccl_jax.checkpoints import restore
from ccl_jax.models import functional, rope
from ccl_jax.models.fusion.avdit import AVDiT
from ccl_jax.models.fusion.base import FusionContext
from ccl_jax.params import lora, trees
from ccl_jax.params.lora import LoRAConfig
from ccl_jax.params.sharding import ONE_DEVICE, Layout, make_mesh
from configs.avdit import get_config
from tests.models import tiny

B, F = 4, 3
SIZES = dict(width=24, ffn=32, heads=2, channels=3)
VIDEO = dict(backbone="dit", patch=2, frequency_dim=8, **SIZES)
AUDIO = dict(backbone="shared", tokens_per_frame=2, **SIZES | {"channels": 2})


def settings(c=2, **fusion):
  return tiny.SETTINGS | dict(
    video=VIDEO,
    audio=AUDIO | {"tokens_per_frame": c},
    fusion=dict(kind="avdit", lora_rank=2) | fusion,
  )


IMAGE = tiny.SETTINGS | dict(
  video=VIDEO, audio=None, fusion=dict(kind="independent")
)


@functools.cache
def model(layout=ONE_DEVICE, is_new=False, c=2):
  """(velocity, parameters): random ones, of adapters at first if new."""
  graph, shapes = functional.describe(settings(c), layout)
  params = tiny.randomize(shapes)
  if is_new:
    fresh = functional.init_params(settings(c), jax.random.key(0))
    params = params | {"fusion": fresh["fusion"]}
  return jax.jit(functools.partial(functional.velocity, graph)), params


def inputs(**route):
  """Latents, times and text; all see each other if the route tells not else."""
  state, _, text, _ = tiny.inputs(b=B)
  t = jnp.linspace(0.1, 0.9, B, dtype=jnp.float32)
  yes = jnp.ones(B, bool)
  sees = {s: yes & route.get(s, True) for s in state}
  exchanges = yes & route.get("exchanges", True)
  routed = Route(sees, dict.fromkeys(state, yes), exchanges)
  return state, dict.fromkeys(state, t), text, routed


def test_at_first_the_video_is_the_image_model_frame_by_frame():
  run, params = model(is_new=True)
  state, t, text, route = inputs()
  both = run(params, state, t, text, route)["video"]
  graph, _ = functional.describe(IMAGE)
  images = state["video"].reshape(B * F, 1, *state["video"].shape[2:])
  per_frame = functional.velocity(
    graph,
    {"video": params["video"]},
    {"video": images},
    {"video": jnp.repeat(t["video"], F)},
    jnp.repeat(text, F, 0),
    jax.tree.map(lambda x: jnp.repeat(x, F), route),
  )["video"]
  np.testing.assert_allclose(
    both, per_frame.reshape(both.shape), rtol=1e-5, atol=1e-5
  )
  assert jnp.abs(both).mean() > 0.1


def test_adapters_join_frames_and_streams():
  """Random ones: all of the video hears the sound, and one frame the others."""
  run, params = model()
  state, *rest = inputs()

  def moved(of, at, change):
    other = state | {at: change(state[at])}
    after, before = (run(params, x, *rest)[of] for x in (other, state))
    return np.abs(after - before).max() > 1e-5

  assert moved("video", "audio", lambda x: x.at[:, 2:4].add(1))
  assert moved("audio", "video", lambda x: x.at[:, 1].add(1))
  last = run(params, state, *rest)["video"][:, 2]
  first = state | {"video": state["video"].at[:, 0].add(1)}
  assert jnp.abs(run(params, first, *rest)["video"][:, 2] - last).max() > 1e-5


@pytest.mark.parametrize("frames", [F, F - 1])
@pytest.mark.parametrize("radius", [0, 1, F])
def test_attention_over_both_is_turned_by_the_frame_in_a_window(radius, frames):
  """Video sees the sound in the first sample; the last frame may be padding."""
  layer = AVDiT(
    dict(video=24, audio=24), dict(video=12, audio=12), window_radius=radius,
    rngs=nnx.Rngs(0), dtype=jnp.dtype("float32"),
  )  # fmt: skip
  b, sizes, rng = 2, {"video": 4, "audio": 2}, np.random.default_rng(0)
  qkv = {
    s: tuple(
      jnp.asarray(rng.normal(size=(b, F * num, 2, 12)), "float32")
      for _ in range(3)
    )
    for s, num in sizes.items()
  }
  yes = jnp.ones(b, bool)
  sees = {"video": jnp.array([True, False]), "audio": yes}
  grids = {"video": (F, 2, 2), "audio": (F, 1, 2)}
  found = layer.attend_jointly(
    qkv,
    FusionContext(
      grids, frames, Route(sees, dict.fromkeys(sizes, yes), yes), Attention()
    ),
  )
  frame = {s: np.repeat(np.arange(F), num) for s, num in sizes.items()}
  turned = {
    s: [rope.rotate(x, rope.sequence_angles(frame[s], 12)) for x in qkv[s][:2]]
    for s in sizes
  }
  k = jnp.concatenate([turned[s][1] for s in sizes], 1)
  v = jnp.concatenate([qkv[s][2] for s in sizes], 1)
  of = np.concatenate(list(frame.values()))
  for s in sizes:
    mask = abs(frame[s][:, None] - of) <= radius
    mask = np.broadcast_to(mask & (of < frames), (b, *mask.shape)).copy()
    if s == "video":
      mask[1, :, len(frame["video"]) :] = False
    logits = jnp.einsum("bnke,bmke->bknm", turned[s][0], k) / 12**0.5
    weights = jax.nn.softmax(jnp.where(mask[:, None], logits, -jnp.inf))
    expected = jnp.einsum("bknm,bmke->bnke", weights, v)
    real = frame[s] < frames
    np.testing.assert_allclose(
      found[s][:, real], expected[:, real], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("off", ["exchanges", "video", "audio"])
def test_a_stream_that_does_not_see_the_other_equals_itself_alone(off):
  """With 3, 2 and 3 audio latents in three frames."""
  run, params = model(c=2.6)
  state, t, text, route = inputs(**{off: False})
  state["audio"] = jnp.resize(state["audio"], (B, 8, 2))
  both = run(params, state, t, text, route)
  for s, x in both.items():
    alone = run(params, {s: state[s]}, {s: t[s]}, text, route)[s]
    equal = np.allclose(x, alone, rtol=1e-4, atol=1e-5)
    assert equal == (off in ("exchanges", s)), s


def test_a_mesh_that_exchanges_heads_equals_one_device():
  """Eight devices; three frames on a context axis of two, as have the heads."""
  rules = get_config("size=tiny").sharding.activations
  mesh = make_mesh(jax.devices(), data=4, fsdp=1, context=2)
  layout = Layout(mesh, ((".*", ()),), rules, self_attention="ulysses")
  given = inputs()
  for a, b in zip(
    *(
      jax.tree.leaves(run(params, *given))
      for run, params in (model(layout), model())
    ),
    strict=True,
  ):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_lora_of_the_blocks_is_one_of_all_that_they_run():
  """Beside the adapters' own; at run time as in one matrix."""
  config = LoRAConfig((("video/blocks/self_attention/.*/kernel", 2),))
  graph, shapes = functional.describe(settings(), lora=config)
  params, given = tiny.randomize(shapes), inputs()
  added = functional.velocity(graph, params, *given)
  leaves = trees.flatten(params)
  folded = restore.fold_lora(leaves, lora.pairs(leaves, config.alpha))
  run, _ = model()
  merged = run(lora.without(trees.unflatten(folded)), *given)
  for s, x in added.items():
    atol = 2e-5 * np.abs(x).max()
    np.testing.assert_allclose(merged[s], x, rtol=0, atol=atol)


def test_what_learns_is_a_quarter_of_the_paper_size():
  c = get_config("size=xl")
  _, shapes = functional.describe(c.model.to_dict())
  rates = trees.match(c.optimizer.learning_rates, shapes)
  trainable, frozen = trees.split(shapes, rates)
  assert trees.count(frozen) == 670_968_576  # blocks and time of DiT-XL/2
  assert 0.24 < trees.count(trainable) / trees.count(shapes) < 0.26


@pytest.mark.parametrize(
  ("change", "words"),
  [
    (dict(audio=None), "expected video and audio"),
    (dict(audio=AUDIO | {"width": 16}), "backbone needs the video stream"),
    (dict(video=VIDEO | {"backbone": "unet"}), "expected one of wan, dit"),
    (dict(audio=AUDIO | {"backbone": "dit"}), "expected of video only"),
    (dict(video=VIDEO | {"width": 20}), "multiple of 4"),
    (dict(fusion=dict(kind="avdit", adapter_ratio=0.0)), "ratio above 0"),
    (dict(fusion=dict(kind="avdit", lora_rank=0)), "rank from 1"),
    (dict(video=VIDEO | {"condition_channels": 4}), "condition_channels"),
  ],
)  # fmt: skip
def test_wrong_settings_are_named(change, words):
  with pytest.raises(ValueError, match=words):
    functional.describe(settings() | change)

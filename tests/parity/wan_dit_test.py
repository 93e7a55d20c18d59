"""The video stream against diffusers' WanTransformer3DModel."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ccl_jax.array_types import STREAMS, Image, Route
from ccl_jax.attention import Attention
from ccl_jax.convert import matching, transformer, wan
from ccl_jax.convert.state_dict import iter_state_dict
from ccl_jax.convert.torch_files import from_torch
from ccl_jax.models import functional
from ccl_jax.models.block import CrossAttentionInputs
from ccl_jax.models.dual_block import EmbeddedInputs, dual_block, stream_ops
from ccl_jax.models.fusion import FusionContext
from ccl_jax.params import trees
from ccl_jax.params.sharding import ONE_DEVICE
from configs.ccl import get_config
from tests.convert.loading import from_dict, load

torch = pytest.importorskip("torch")
TINY = dict(
  num_layers=3,
  text_width=10,
  video=dict(
    width=32, ffn=40, heads=2, channels=3, patch=2, frequency_dim=12
  ),
)  # fmt: skip
TOLD = {
  **TINY, "video": TINY["video"] | dict(condition_channels=5, image_width=6)
}  # fmt: skip
KINDS = {"t2v": TINY, "i2v": TOLD}
LIMIT = 1e-4
PARAMETERS = {
  "14b": 14_288_491_584,
  "1.3b": 1_418_996_800,
  "14b-i2v": 16_394_878_784,
  "1.3b-i2v": 1_564_428_608,
  # Of Wan2.2-I2V-A14B: as 14b, and 20 channels of 1 x 2 x 2 patches more.
  "14b-i2v-2.2": 14_288_491_584 + 20 * 4 * 5120,
}


def original(settings, device="cpu"):
  from diffusers import WanTransformer3DModel

  video = settings["video"]
  image_width = video.get("image_width")
  with torch.device(device):
    return WanTransformer3DModel(
      num_attention_heads=video["heads"],
      attention_head_dim=video["width"] // video["heads"],
      in_channels=video["channels"] + video.get("condition_channels", 0),
      out_channels=video["channels"],
      text_dim=settings["text_width"],
      freq_dim=video.get("frequency_dim", 256),
      ffn_dim=video["ffn"],
      num_layers=settings["num_layers"],
      image_dim=image_width,
      added_kv_proj_dim=image_width and video["width"],
    )


@functools.cache
def pair(kind="t2v"):
  """The same random model twice: torch's, and our graph with parameters."""
  module = original(KINDS[kind]).eval().requires_grad_(False)
  generator = torch.Generator().manual_seed(0)
  for name, p in module.named_parameters():
    noise = torch.randn(p.shape, generator=generator)
    if p.ndim < 2:
      p.copy_(0.3 * noise + ("norm" in name and name.endswith("weight")))
    else:
      fan_in = 10.0 if "table" in name else p[0].numel()
      p.copy_(noise / fan_in**0.5)
  arrays = {name: x.numpy() for name, x in module.state_dict().items()}
  alone = dict(audio=None, fusion=dict(kind="independent"), dtype="float32")
  graph, shapes = functional.describe({**KINDS[kind], **alone})
  table = wan.tables(KINDS[kind])["diffusers"]
  return module, graph, load(from_dict(arrays), table, shapes), table, arrays


def inputs(b=2, f=3, h=6, w=10, length=7, seed=0):
  rng = np.random.default_rng(seed)
  latents = rng.standard_normal((b, f, h, w, 3)).astype(np.float32)
  text = rng.standard_normal((b, length, 10)).astype(np.float32)
  return latents, text


def tell(latents, length=257, seed=1):
  """An `Image` for `latents`."""
  rng = np.random.default_rng(seed)
  return Image(
    rng.standard_normal((*latents.shape[:4], 5)).astype(np.float32),
    rng.standard_normal((len(latents), length, 6)).astype(np.float32),
  )


def route(b):
  ones = jnp.ones(b, bool)
  return Route(
    dict.fromkeys(STREAMS, ~ones), dict.fromkeys(STREAMS, ones), ~ones
  )


def both(latents, times, text, image=None):
  """Outputs of both as (b, f, h, w, c), and those of torch's every block.

  Args:
    times: (b,), or (b, f, tokens of a frame).
    image: for the model that is told of one. The original takes the last 512 of
      image and text tokens for the text's: there each comes as often as it
      needs, which is the same to attention.
  """
  module, graph, params, _, _ = pair("i2v" if image else "t2v")
  seen, told, tokens = text, latents, None
  if image:
    seen = np.tile(text, (1, 512 // text.shape[1], 1))
    told = np.concatenate([latents, image.latents], -1)
    tokens = torch.from_numpy(image.tokens)
  hidden = []
  hooks = [
    block.register_forward_hook(lambda _, args, out: hidden.append((args, out)))
    for block in module.blocks
  ]
  theirs = module(
    torch.from_numpy(np.moveaxis(told, -1, 1).copy()),
    torch.from_numpy(1000 * times).flatten(1 if times.ndim > 1 else 0),
    torch.from_numpy(seen),
    tokens,
  ).sample.numpy()
  for hook in hooks:
    hook.remove()
  ours = velocity(graph, params, latents, times, text, image)
  return np.asarray(ours), np.moveaxis(theirs, 1, -1), hidden


@functools.partial(jax.jit, static_argnums=0)
def velocity(graph, params, latents, times, text, image=None):
  state, t = {"video": latents}, {"video": times}
  routed = route(len(latents))
  made = functional.velocity(graph, params, state, t, text, routed, image)
  return made["video"]


def error(ours, theirs):
  return np.abs(ours - theirs).max() / np.abs(theirs).max()


@pytest.mark.parametrize(
  "grid, length", [((1, 2, 2), 1), ((3, 6, 10), 9), ((5, 14, 6), 32)]
)
def test_velocity(grid, length):
  latents, text = inputs(2, *grid, length)
  times = np.array([0.93, 0.05], np.float32)
  ours, theirs, _ = both(latents, times, text)
  print("velocity", grid, length, error(ours, theirs))
  assert error(ours, theirs) <= LIMIT
  assert np.abs(theirs).mean() > 0.1


@pytest.mark.parametrize(
  "grid, length, tokens, per_token",
  [
    ((1, 2, 2), 1, 257, False),
    ((5, 14, 6), 8, 3, False),
    ((3, 6, 10), 512, 257, True),
  ],
)
def test_velocity_told_of_an_image(grid, length, tokens, per_token):
  latents, text = inputs(2, *grid, length)
  times = np.array([0.93, 0.05], np.float32)
  if per_token:
    shape = (2, grid[0], grid[1] * grid[2] // 4)
    times = np.random.default_rng(1).uniform(size=shape).astype(np.float32)
  image = tell(latents, tokens)
  ours, theirs, _ = both(latents, times, text, image)
  print("told", grid, length, tokens, error(ours, theirs))
  assert error(ours, theirs) <= LIMIT
  # Either part tells.
  _, graph, params, _, _ = pair("i2v")
  for part in (image._replace(latents=None), image._replace(tokens=None)):
    less = velocity(graph, params, latents, times, text, part)
    assert error(np.asarray(less), theirs) > 1e-2


def test_no_image_leaves_the_text_to_video_model():
  """Zeros in its channels and nothing to read: in diffusers', and in T2V."""
  module, graph, params, _, _ = pair("i2v")
  latents, text = inputs(length=512)
  times = np.array([0.93, 0.05], np.float32)
  ours = np.asarray(velocity(graph, params, latents, times, text))
  padded = np.concatenate([latents, np.zeros((*latents.shape[:4], 5))], -1)
  theirs = module(
    torch.from_numpy(np.moveaxis(padded, -1, 1).astype(np.float32)),
    torch.from_numpy(1000 * times),
    torch.from_numpy(text),
  ).sample.numpy()
  assert error(ours, np.moveaxis(theirs, 1, -1)) <= LIMIT
  leaves = trees.flatten(params)
  kept = {k: x for k, x in leaves.items() if "/image/" not in k}
  kept["video/embed/kernel"] = kept["video/embed/kernel"][: 3 * 4]
  plain = velocity(pair()[1], trees.unflatten(kept), latents, times, text)
  assert error(np.asarray(plain), ours) <= 1e-6


def test_velocity_with_a_time_for_each_token():
  latents, text = inputs()
  times = np.random.default_rng(1).uniform(size=(2, 3, 15)).astype(np.float32)
  times[:, 0] = 0  # the clean first frame
  ours, theirs, _ = both(latents, times, text)
  print("per token", error(ours, theirs))
  assert error(ours, theirs) <= LIMIT
  # As a number of each frame it is the same.
  times = np.repeat(times[:, :, :1], 15, 2)
  _, theirs, _ = both(latents, times, text)
  _, graph, params, _, _ = pair()
  ours = velocity(graph, params, latents, times[:, :, :1], text)
  assert error(np.asarray(ours), theirs) <= LIMIT


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", range(TINY["num_layers"]))
def test_one_block(layer, kind):
  """Each from the input that torch's block had: where a failure is."""
  _, graph, params, _, _ = pair(kind)
  latents, text = inputs(length=8)
  image = tell(latents) if kind == "i2v" else None
  times = np.array([0.7, 0.2], np.float32)
  _, _, hidden = both(latents, times, text, image)
  (x, context, rows, _), theirs = hidden[layer]
  prompt = CrossAttentionInputs(context.numpy())
  if image:
    prompt = CrossAttentionInputs(
      context[:, -512:].numpy(), context[:, :-512].numpy()
    )
  model = nnx.merge(graph, params)
  grid = (3, 3, 5)
  blocks = {}
  for name, stack in (("video", model.video.blocks), ("fusion", model.fusion)):
    own, stacked = nnx.split(stack)
    row = jax.tree.map(lambda p: p[layer], nnx.to_pure_dict(stacked))
    blocks[name] = nnx.merge(own, row)
  shared = FusionContext(
    {"video": grid}, grid[0], route(2), Attention(None, ONE_DEVICE)
  )

  def block(x, rows, prompt):
    times = {"video": (None, rows[:, None, None])}
    x = {"video": x.reshape(2, 3, 15, 32)}
    given = EmbeddedInputs(x, times, {"video": prompt}, shared)
    angles = {"video": model.video.angles(*grid)}
    ops = {"video": stream_ops(shared.attention, "video")}
    own = {"video": blocks["video"]}
    args = own, blocks["fusion"], x, given, angles, ops
    return dual_block(*args)[0]["video"]

  out = jax.jit(block)(x.numpy(), rows.numpy(), prompt)
  ours = np.asarray(out).reshape(theirs.shape)
  print("block", kind, layer, error(ours, theirs.numpy()))
  assert error(ours, theirs.numpy()) <= LIMIT
  assert error(x.numpy(), theirs.numpy()) > 0.1


def from_wan(arrays):
  """Wan's names to diffusers', by diffusers."""
  from diffusers.loaders.single_file_utils import (
    convert_wan_transformer_to_diffusers,
  )

  return convert_wan_transformer_to_diffusers(dict(arrays))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_both_layouts_both_ways_bit_for_bit(dtype, kind):
  _, _, params, table, arrays = pair(kind)
  params = jax.tree.map(lambda x: x.astype(dtype), params)
  shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), params)
  published = wan.tables(KINDS[kind])["wan"]
  out = dict(iter_state_dict(params, table))
  assert out.keys() == arrays.keys()
  for name, x in arrays.items():
    np.testing.assert_array_equal(out[name], x.astype(dtype))
  renamed = dict(iter_state_dict(params, published))
  translated = from_wan(renamed)
  assert translated.keys() == out.keys()
  for name, x in translated.items():
    np.testing.assert_array_equal(x, out[name])
  for layout, file in ((table, out), (published, renamed)):
    again = load(from_dict(file), layout, shapes)
    jax.tree.map(np.testing.assert_array_equal, again, params)


@pytest.mark.parametrize("size", wan.SIZES)
def test_every_name_and_shape_of_the_published_sizes(size):
  settings = wan.SIZES[size]
  section = get_config(f"size={size.partition('-')[0]}").model
  told = dict(condition_channels=0, image_width=0)
  if "-i2v" in size:
    told["condition_channels"] = 20
  if size.endswith("-i2v"):
    told["image_width"] = 1280
  assert told | settings["video"] == section.video.to_dict() | told
  for key in ("num_layers", "text_width"):
    assert section[key] == settings[key]
  ours = trees.flatten(transformer.param_shapes(settings))
  theirs = from_torch(original(settings, "meta").state_dict()).shapes
  published = wan.tables(settings)
  matching.match(published["diffusers"], theirs, ours)
  count = sum(x.size for x in theirs.values())
  assert count == trees.count(ours)
  assert count == PARAMETERS[size]
  # Wan's own file has the same under names that diffusers translates.
  named = {
    name: name
    for assignment in matching.derive(published["wan"], ours)
    for name in assignment.theirs
  }
  renamed = {wans: new for new, wans in from_wan(named).items()}
  shapes = {wans: theirs[new] for wans, new in renamed.items()}
  assert len(shapes) == len(theirs)
  matching.match(published["wan"], shapes, ours)


@pytest.mark.parametrize(
  "name", ["img_emb.emb_pos", "condition_embedder.image_embedder.pos_embed"]
)
def test_the_model_of_two_images_is_refused(name):
  tensors = from_dict({name: np.zeros((1, 514, 6), np.float32)})
  with pytest.raises(ValueError, match="FLF2V"):
    wan.check(tensors)


def test_what_some_files_hold_and_nothing_uses():
  _, _, params, table, arrays = pair("i2v")
  more = {
    f"blocks.{i}.attn2.norm_added_q.weight": np.ones(32) for i in range(3)
  }
  shapes = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params
  )
  again = load(from_dict(arrays | more), table, shapes)
  jax.tree.map(np.testing.assert_array_equal, again, params)

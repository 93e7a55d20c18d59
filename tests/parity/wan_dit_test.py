"""The video stream against diffusers' WanTransformer3DModel."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ccl_jax import trees
from ccl_jax.attention import Attention
from ccl_jax.convert import rules, wan
from ccl_jax.convert.load import dump, load
from ccl_jax.convert.sources import from_dict, from_torch
from ccl_jax.models import joint
from ccl_jax.models.fusion import Scene
from ccl_jax.sharding import ONE_DEVICE
from ccl_jax.types import Route
from configs.ccl import get_config

torch = pytest.importorskip("torch")
TINY = dict(
  num_layers=3,
  text_width=10,
  video=dict(
    width=32, ffn=40, heads=2, channels=3, patch=2, frequency_dim=12
  ),
)  # fmt: skip
LIMIT = 1e-4


def original(settings, device="cpu"):
  from diffusers import WanTransformer3DModel

  video = settings["video"]
  with torch.device(device):
    return WanTransformer3DModel(
      num_attention_heads=video["heads"],
      attention_head_dim=video["width"] // video["heads"],
      in_channels=video["channels"],
      out_channels=video["channels"],
      text_dim=settings["text_width"],
      freq_dim=video.get("frequency_dim", 256),
      ffn_dim=video["ffn"],
      num_layers=settings["num_layers"],
    )


@functools.cache
def pair():
  """The same random model twice: torch's, and our graph with parameters."""
  module = original(TINY).eval().requires_grad_(False)
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
  graph, shapes = joint.describe({**TINY, **alone})
  table = wan.tables(TINY)["diffusers"]
  return module, graph, load(from_dict(arrays), table, shapes), table, arrays


def inputs(b=2, f=3, h=6, w=10, length=7, seed=0):
  rng = np.random.default_rng(seed)
  latents = rng.standard_normal((b, f, h, w, 3)).astype(np.float32)
  text = rng.standard_normal((b, length, 10)).astype(np.float32)
  return latents, text


def route(b):
  ones = jnp.ones(b, bool)
  return Route(~ones, ~ones, ones, ones, ~ones)


def both(latents, times, text):
  """Outputs of both as (b, f, h, w, c), and those of torch's every block.

  times: (b,), or (b, f, tokens of a frame).
  """
  module, graph, params, _, _ = pair()
  hidden = []
  hooks = [
    block.register_forward_hook(lambda _, args, out: hidden.append((args, out)))
    for block in module.blocks
  ]
  theirs = module(
    torch.from_numpy(np.moveaxis(latents, -1, 1).copy()),
    torch.from_numpy(1000 * times).flatten(1 if times.ndim > 1 else 0),
    torch.from_numpy(text),
  ).sample.numpy()
  for hook in hooks:
    hook.remove()
  ours = velocity(graph, params, latents, times, text)
  return np.asarray(ours), np.moveaxis(theirs, 1, -1), hidden


@functools.partial(jax.jit, static_argnums=0)
def velocity(graph, params, latents, times, text):
  state, t = {"video": latents}, {"video": times}
  routed = route(len(latents))
  return joint.velocity(graph, params, state, t, text, routed)["video"]


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


@pytest.mark.parametrize("layer", range(TINY["num_layers"]))
def test_one_block(layer):
  """Each from the input that torch's block had: where a failure is."""
  _, graph, params, _, _ = pair()
  latents, text = inputs()
  _, _, hidden = both(latents, np.array([0.7, 0.2], np.float32), text)
  (x, context, rows, _), theirs = hidden[layer]
  model = nnx.merge(graph, params)
  grid = (3, 3, 5)
  blocks = {}
  for name, stack in (("video", model.video.blocks), ("fusion", model.fusion)):
    own, stacked = nnx.split(stack)
    row = jax.tree.map(lambda p: p[layer], nnx.to_pure_dict(stacked))
    blocks[name] = nnx.merge(own, row)
  scene = Scene({"video": grid}, grid[0], route(2), Attention(None, ONE_DEVICE))
  out = jax.jit(
    lambda x, rows, context: model.block(
      blocks,
      {"video": x.reshape(2, 3, 15, 32)},
      {"video": rows[:, None, None]},
      {"video": context},
      {"video": model.video.angles(*grid)},
      scene,
    )["video"]
  )(x.numpy(), rows.numpy(), context.numpy())
  ours = np.asarray(out).reshape(theirs.shape)
  print("block", layer, error(ours, theirs.numpy()))
  assert error(ours, theirs.numpy()) <= LIMIT
  assert error(x.numpy(), theirs.numpy()) > 0.1


def from_wan(arrays):
  """Wan's names to diffusers', by diffusers."""
  from diffusers.loaders.single_file_utils import (
    convert_wan_transformer_to_diffusers,
  )

  return convert_wan_transformer_to_diffusers(dict(arrays))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_both_layouts_both_ways_bit_for_bit(dtype):
  _, _, params, table, arrays = pair()
  params = jax.tree.map(lambda x: x.astype(dtype), params)
  shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), params)
  published = wan.tables(TINY)["wan"]
  out = dict(dump(params, table))
  assert out.keys() == arrays.keys()
  for name, x in arrays.items():
    np.testing.assert_array_equal(out[name], x.astype(dtype))
  renamed = dict(dump(params, published))
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
  section = get_config(f"size={size}").model
  assert section.video.to_dict() == settings["video"]
  for key in ("num_layers", "text_width"):
    assert section[key] == settings[key]
  ours = trees.flatten(wan.param_shapes(settings))
  theirs = from_torch(original(settings, "meta").state_dict()).shapes
  published = wan.tables(settings)
  rules.match(published["diffusers"], theirs, ours)
  count = sum(x.size for x in theirs.values())
  assert count == trees.count(ours)
  assert count == {"14b": 14_288_491_584, "1.3b": 1_418_996_800}[size]
  # Wan's own file has the same under names that diffusers translates.
  named = {
    name: name
    for piece in rules.derive(published["wan"], ours)
    for name in piece.theirs
  }
  renamed = {wans: new for new, wans in from_wan(named).items()}
  shapes = {wans: theirs[new] for wans, new in renamed.items()}
  assert len(shapes) == len(theirs)
  rules.match(published["wan"], shapes, ours)


def test_image_to_video_is_told():
  names = ["img_emb.proj.0.weight", "blocks.0.norm3.weight"]
  tensors = from_dict({name: np.zeros(2, np.float32) for name in names})
  with pytest.raises(ValueError, match="image-to-video"):
    wan.check_kind(tensors)

"""CLIP's image tower against transformers', its pixels against torch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.codecs import clip
from ccl_jax.convert import clip as tables
from ccl_jax.convert.matching import match
from ccl_jax.convert.torch_files import from_torch
from ccl_jax.params import nnx_utils, trees
from tests.convert.loading import from_dict, load
from tests.parity.redraw import redraw

CONFIG = clip.CLIPVisionConfig(
  image=28, patch=7, width=24, ffn=40, heads=3, layers=3
)
# The name that Wan's wan/modules/clip.py gives what transformers names so.
WAN = {
  "post_layernorm": "post_norm",
  "pre_layrnorm": "pre_norm",
  "embeddings.patch_embedding": "patch_embedding",
  "encoder.layers": "transformer",
  "layer_norm": "norm",
  "self_attn.out_proj": "attn.proj",
  "mlp.fc1": "mlp.0",
  "mlp.fc2": "mlp.2",
}


def original(s, device="cpu"):
  import torch
  from transformers import CLIPVisionConfig, CLIPVisionModel

  config = CLIPVisionConfig(
    hidden_size=s.width, intermediate_size=s.ffn, num_hidden_layers=s.layers,
    num_attention_heads=s.heads, image_size=s.image, patch_size=s.patch,
    hidden_act="gelu", layer_norm_eps=s.epsilon,
  )  # fmt: skip
  with torch.device(device):
    return CLIPVisionModel(config)


def wan_arrays(state, s):
  """Returns a state dict under Wan's names, with the file's other tensors."""
  import torch

  arrays = {}
  for name, x in state.items():
    for theirs, wan in WAN.items():
      name = name.replace(theirs, wan)
    if "self_attn" not in name and "embeddings" not in name:
      arrays[f"visual.{name}"] = x
  for i in range(s.layers):
    for part in ("weight", "bias"):
      qkv = [
        state[f"encoder.layers.{i}.self_attn.{x}_proj.{part}"] for x in "qkv"
      ]
      arrays[f"visual.transformer.{i}.attn.to_qkv.{part}"] = torch.cat(qkv)
  cls = state["embeddings.class_embedding"]
  positions = state["embeddings.position_embedding.weight"]
  arrays["visual.cls_embedding"] = cls[None, None]
  arrays["visual.pos_embedding"] = positions[None]
  arrays["visual.head"] = arrays["log_scale"] = cls
  for name in ("token_embedding.weight", "head.2.weight", "norm.bias",
               "blocks.23.attn.q.bias", "blocks.0.ffn.2.weight"):  # fmt: skip
    arrays[f"textual.{name}"] = cls
  return arrays


@pytest.fixture(scope="module")
def model():
  return redraw(original(CONFIG))


@pytest.fixture(scope="module")
def params(model):
  table = tables.transformers(CONFIG.layers, prefix="")
  shapes = nnx_utils.param_shapes(clip.CLIP, CONFIG)
  return load(from_torch(model.state_dict()), table, shapes)


def test_penultimate_features_equal_transformers(model, params):
  import torch

  images = np.random.default_rng(0).normal(size=(2, 28, 28, 3))
  pixels = torch.from_numpy(images.astype(np.float32)).permute(0, 3, 1, 2)
  with torch.no_grad():
    theirs = model(pixels, output_hidden_states=True).hidden_states[-2].numpy()
  tower = nnx_utils.bind(clip.CLIP, CONFIG, params)
  ours = np.asarray(jax.jit(lambda x: tower(x))(jnp.float32(images)))
  assert ours.shape == (2, 17, 24)
  assert np.abs(ours - theirs).max() / np.abs(theirs).max() < 2e-6


@pytest.mark.parametrize("size", [(45, 80), (13, 28)])
def test_pixels_equal_wans(size):
  import torch

  images = np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)
  x = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
  x = torch.nn.functional.interpolate(
    2 * x - 1, size=(28, 28), mode="bicubic", align_corners=False
  )
  x = x / 2 + 0.5
  mean, std = (torch.tensor(v)[:, None, None] for v in (clip.MEAN, clip.STD))
  theirs = ((x - mean) / std).permute(0, 2, 3, 1).numpy()
  np.testing.assert_allclose(
    clip.preprocess(jnp.asarray(images), 28), theirs, atol=3e-5
  )


def test_wan_names_give_the_same_parameters(model, params):
  arrays = wan_arrays(model.state_dict(), CONFIG)
  arrays = {name: x.numpy() for name, x in arrays.items()}
  shapes = nnx_utils.param_shapes(clip.CLIP, CONFIG)
  wan = load(from_dict(arrays), tables.wan(CONFIG.layers), shapes)
  jax.tree.map(np.testing.assert_array_equal, params, wan)


def test_full_size_maps_one_to_one():
  s = clip.CLIPVisionConfig()
  shapes = trees.flatten(nnx_utils.param_shapes(clip.CLIP, s))
  state = original(s, "meta").state_dict()
  match(tables.transformers(prefix=""), from_torch(state).shapes, shapes)
  named = {f"vision_model.{name}": x for name, x in state.items()}
  match(tables.transformers(), from_torch(named).shapes, shapes)
  match(tables.wan(), from_torch(wan_arrays(state, s)).shapes, shapes)
  # Without the last block and the final norm, as with Wan's use_31_block.
  block = 12 * 1280**2 + 13 * 1280
  assert trees.count(shapes) == 632_076_800 - 1280 * 1024 - block - 2 * 1280

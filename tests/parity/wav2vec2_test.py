"""Wav2Vec2 against transformers', both ways of normalising."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.codecs import wav2vec2
from ccl_jax.convert import wav2vec2 as tables
from ccl_jax.convert.matching import match
from ccl_jax.convert.torch_files import from_torch
from ccl_jax.params import nnx_utils, trees
from tests.convert.loading import load
from tests.parity.redraw import redraw

SMALL = wav2vec2.Wav2Vec2Config(
  width=24, ffn=40, heads=3, layers=2, channels=16, positions=8, groups=4
)


def original(s, device="cpu", kind="Wav2Vec2Model"):
  import torch
  import transformers

  config = transformers.Wav2Vec2Config(
    hidden_size=s.width, intermediate_size=s.ffn, num_hidden_layers=s.layers,
    num_attention_heads=s.heads, conv_dim=(s.channels,) * 7,
    num_conv_pos_embeddings=s.positions,
    num_conv_pos_embedding_groups=s.groups, conv_bias=s.is_pre_norm,
    feat_extract_norm="layer" if s.is_pre_norm else "group",
    do_stable_layer_norm=s.is_pre_norm,
  )  # fmt: skip
  with torch.device(device):
    return getattr(transformers, kind)(config)


@pytest.mark.parametrize("is_pre_norm", [False, True])
def test_features_equal_transformers(is_pre_norm):
  import torch

  config = dataclasses.replace(SMALL, is_pre_norm=is_pre_norm)
  model = redraw(original(config))
  table = tables.tables(config)["parametrized"]
  shapes = nnx_utils.param_shapes(wav2vec2.Wav2Vec2, config)
  params = load(from_torch(model.state_dict()), table, shapes)
  wave = np.random.default_rng(0).normal(size=(2, 4123)).astype(np.float32)
  with torch.no_grad():
    theirs = model(torch.from_numpy(wave)).last_hidden_state.numpy()
  ours = nnx_utils.bind(wav2vec2.Wav2Vec2, config, params)(jnp.asarray(wave))
  assert ours.shape == theirs.shape == (2, 12, 24)
  assert np.abs(ours - theirs).max() / np.abs(theirs).max() < 1e-5


@pytest.mark.parametrize(
  "config", [wav2vec2.BASE, wav2vec2.LARGE, wav2vec2.LARGE_PRE_NORM]
)
def test_full_size_maps_one_to_one(config):
  ours = trees.flatten(nnx_utils.param_shapes(wav2vec2.Wav2Vec2, config))
  plain = from_torch(original(config, "meta").state_dict()).shapes
  match(tables.tables(config)["parametrized"], plain, ours)
  for kind in ("Wav2Vec2ForCTC", "Wav2Vec2ForPreTraining"):
    named = from_torch(original(config, "meta", kind).state_dict()).shapes
    match(tables.tables(config)["parametrized with a head"], named, ours)
  total = sum(x.size for x in ours.values())
  assert round(total / 1e6) == (94 if config is wav2vec2.BASE else 315)

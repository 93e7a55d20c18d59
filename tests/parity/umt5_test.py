"""umT5's encoder against transformers', and its names against Wan's."""

import jax
import numpy as np
import pytest

from ccl_jax.codecs import umt5
from ccl_jax.convert import umt5 as tables
from ccl_jax.convert.matching import match
from ccl_jax.convert.torch_files import from_torch
from ccl_jax.params import nnx_utils, trees
from tests.convert.loading import from_dict, load
from tests.parity.redraw import redraw

CONFIG = umt5.UMT5Config(
  vocab=50, width=24, ffn=40, heads=3, head_size=4, layers=2,
  dtype="float32", param_dtype="float32",
)  # fmt: skip
# The name that Wan's wan/modules/t5.py gives what transformers names so.
WAN = {
  "shared": "token_embedding",
  "encoder.final_layer_norm": "norm",
  "SelfAttention.relative_attention_bias": "pos_embedding.embedding",
  "SelfAttention": "attn",
  "layer.0.layer_norm": "norm1",
  "layer.1.layer_norm": "norm2",
  "DenseReluDense.wi_0": "ffn.gate.0",
  "DenseReluDense.wi_1": "ffn.fc1",
  "DenseReluDense.wo": "ffn.fc2",
  "encoder.block": "blocks",
  "layer.0.": "",
  "layer.1.": "",
}


def original(s, device="cpu"):
  import torch
  from transformers import UMT5Config, UMT5EncoderModel

  config = UMT5Config(
    vocab_size=s.vocab, d_model=s.width, d_ff=s.ffn, num_heads=s.heads,
    d_kv=s.head_size, num_layers=s.layers,
    relative_attention_num_buckets=s.buckets,
    relative_attention_max_distance=s.max_distance,
  )  # fmt: skip
  with torch.device(device):
    return UMT5EncoderModel(config)


def wan_name(name):
  for theirs, wan in WAN.items():
    name = name.replace(theirs, wan)
  return name


def wan_arrays(state):
  """Returns a state dict under Wan's names, which has the embedding once."""
  return {
    wan_name(name): x
    for name, x in state.items()
    if name != "encoder.embed_tokens.weight"
  }


@pytest.fixture(scope="module")
def model():
  return redraw(original(CONFIG))


def test_equals_transformers(model):
  import torch

  lengths = np.array([150, 9, 1])  # distances beyond the last bucket
  ids = np.random.default_rng(0).integers(2, CONFIG.vocab, (3, 150))
  mask = np.arange(150) < lengths[:, None]
  ids = np.where(mask, ids, 0).astype(np.int32)
  with torch.no_grad():
    theirs = model(
      input_ids=torch.from_numpy(ids).long(),
      attention_mask=torch.from_numpy(mask).long(),
    ).last_hidden_state.numpy()
  shapes = nnx_utils.param_shapes(umt5.UMT5, CONFIG)
  params = load(from_torch(model.state_dict()), tables.TRANSFORMERS, shapes)
  ours = np.asarray(
    umt5.encode(params, ids, lengths.astype(np.int32), config=CONFIG)
  )
  error = np.abs(ours - theirs)[mask].max() / np.abs(theirs[mask]).max()
  assert error < 2e-6
  assert not ours[~mask].any()


def test_wan_names_give_the_same_parameters(model):
  shapes = nnx_utils.param_shapes(umt5.UMT5, CONFIG)
  state = model.state_dict()
  ours = load(from_torch(state), tables.TRANSFORMERS, shapes)
  wan = {k: x.numpy() for k, x in wan_arrays(state).items()}
  assert "blocks.1.ffn.gate.0.weight" in wan
  jax.tree.map(
    np.testing.assert_array_equal,
    ours,
    load(from_dict(wan), tables.WAN, shapes),
  )


def test_full_size_maps_one_to_one():
  s = umt5.UMT5Config()
  shapes = trees.flatten(nnx_utils.param_shapes(umt5.UMT5, s))
  state = original(s, "meta").state_dict()
  pieces = match(tables.TRANSFORMERS, from_torch(state).shapes, shapes)
  assert len(pieces) == len(state) - 1  # the embedding is there twice
  match(tables.WAN, from_torch(wan_arrays(state)).shapes, shapes)
  assert trees.count(shapes) == 5_680_910_336


def test_names_of_the_whole_model_are_known():
  """google/umt5-xxl has a decoder too."""
  import torch
  from transformers import UMT5Config, UMT5ForConditionalGeneration

  s = CONFIG
  config = UMT5Config(
    vocab_size=s.vocab, d_model=s.width, d_ff=s.ffn, num_heads=s.heads,
    d_kv=s.head_size, num_layers=s.layers,
  )  # fmt: skip
  with torch.device("meta"):
    state = UMT5ForConditionalGeneration(config).state_dict()
  shapes = trees.flatten(nnx_utils.param_shapes(umt5.UMT5, s))
  match(tables.TRANSFORMERS, from_torch(state).shapes, shapes)

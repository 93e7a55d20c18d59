"""Synchformer against PyTorch and transformers on random weights."""

import numpy as np
import pytest

from ccl_jax.convert.torch_files import from_torch
from ccl_jax.metrics.real import synchformer

SIZE, LAYERS = 32, 2
# Names of transformers 5 and of version 4, which the published file has.
NAMES = {
  "ast.layers": "ast.encoder.layer",
  "attention.q_proj": "attention.attention.query",
  "attention.k_proj": "attention.attention.key",
  "attention.v_proj": "attention.attention.value",
  "attention.o_proj": "attention.output.dense",
  "mlp.fc1": "intermediate.dense",
  "mlp.fc2": "output.dense",
}


def published(model):
  """Returns the state dict under the names of the file."""
  state = {}
  for name, x in model.state_dict().items():
    if name.startswith("afeat_extractor.ast."):
      for new, old in NAMES.items():
        name = name.replace(new, old)
    state[name] = x
  return state


def read(state):
  return synchformer.read(from_torch(state), SIZE, LAYERS)


@pytest.fixture(scope="module")
def model():
  import torch

  from tests.parity.torch_synchformer import Synchformer

  # Published files may have more positions than 14 segments need.
  model = Synchformer(positions=205).eval()
  generator = torch.Generator().manual_seed(0)
  for name, p in model.named_parameters():
    noise = torch.randn(p.shape, generator=generator)
    is_matrix = p.ndim > 1 and name.endswith("weight")
    scale = p[0].numel() ** -0.5 if is_matrix else 0.3
    offset = float(p.ndim == 1 and name.endswith("weight"))
    p.data.copy_(offset + scale * noise)
  return model


@pytest.fixture(scope="module")
def params(model):
  return read(published(model))


def assert_close(ours, theirs):
  theirs = theirs.detach().numpy()
  assert np.abs(theirs).max() > 0.3 and theirs.std() > 0.1
  np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_vectors_and_logits_equal_pytorch(model, params):
  import torch

  rng = np.random.default_rng(0)
  shape = (synchformer.SEGMENTS, synchformer.FRAMES, SIZE, SIZE, 3)
  video = rng.uniform(-1, 1, shape).astype(np.float32)
  mel = rng.normal(size=(synchformer.SEGMENTS, 66, 128)).astype(np.float32)
  pictures = torch.from_numpy(video).permute(0, 4, 1, 2, 3)
  sound = torch.from_numpy(mel)
  v = synchformer.embed_video(params, video)
  a = synchformer.embed_audio(params, mel)
  assert v.shape == (14, 8, 24) and a.shape == (14, 6, 24)
  assert_close(v, model.vproj(model.vfeat_extractor(pictures)))
  assert_close(a, model.aproj(model.afeat_extractor(sound)))
  logits = synchformer.classify(params, v, a)
  assert_close(logits, model(pictures, sound))


def test_a_file_of_another_model_is_told(model):
  state = published(model)
  bias = state["vproj.bias"]
  for wrong in (
    {"a": bias},
    state | {"transformer.off_head.weight": state["vproj.weight"][:, :7]},
    {k: x for k, x in state.items() if ".blocks.1." not in k},
    {k: x for k, x in state.items() if k != "transformer.OFF_tok"},
  ):
    with pytest.raises(ValueError, match="not Synchformer's"):
      read(wrong)

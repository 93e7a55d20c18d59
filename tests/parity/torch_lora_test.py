"""A LoRA's file in PyTorch against the same LoRA in JAX."""

import json

import jax
import numpy as np
import pytest

from ccl_jax.checkpoints import restore
from ccl_jax.convert import lora_writer
from ccl_jax.models import functional
from ccl_jax.params import lora, trees
from tests.convert.joints import MODELS
from tests.models import tiny
from tests.parity.torch_ccl import (
  LIMIT,
  arrays,
  error,
  inputs,
  ours,
  to_torch,
  torch,
  torch_model,
)

safetensors_torch = pytest.importorskip("safetensors.torch")
torch_lora = pytest.importorskip("ccl_jax.convert.torch_lora")
RULES = (("(video|audio)/blocks/.*/kernel", 2), ("fusion/.*/kernel", 3))
FULL = ("fusion/video/context", "video/blocks/modulation", "audio/embed/bias")
MODEL, ALPHA, SCALE = MODELS["cca"], 5.0, 0.8


@pytest.fixture(scope="module")
def factors():
  """Path -> A and B of every kind of layer, or all of a parameter."""
  config = lora.LoRAConfig(RULES, ALPHA)
  _, shapes = functional.describe(MODEL, lora=config)
  leaves = trees.flatten(jax.tree.map(np.asarray, tiny.randomize(shapes)))
  full = {p: lora.Full(leaves[p] + 1) for p in FULL}
  return lora.pairs(leaves, ALPHA) | full


@pytest.fixture(scope="module")
def file(factors, tmp_path_factory):
  folder = tmp_path_factory.mktemp("lora") / "file"
  lora_writer.write(folder, MODEL, factors, "diffusers")
  return folder


def fresh():
  """A model of its own, whose weights may change."""
  model = torch_model.CCL(MODEL).requires_grad_(False)
  tensors = {name: torch.tensor(x) for name, x in arrays("cca").items()}
  model.load_state_dict(tensors, strict=True)
  return model


def test_velocity_with_a_lora(factors, file):
  params, velocity = ours("cca")
  scaled = {k: x._replace(scale=SCALE * x.scale) for k, x in factors.items()}
  leaves = {path: x + 0 for path, x in trees.flatten(params).items()}
  folded = trees.unflatten(restore.fold_lora(leaves, scaled))
  expected = velocity(folded, *inputs())
  model = fresh().load_lora(file, SCALE)
  found = error(expected, model(*to_torch(inputs())))
  print("float32 with a LoRA:", found)
  assert found <= LIMIT
  assert error(expected, to_torch(velocity(params, *inputs()))) > 0.1
  # Two halves of it are one; and it can be taken away.
  halves = fresh().load_lora(file, SCALE / 2)
  halves.load_lora(file / torch_lora.FILE).load_lora(file, SCALE / 2 - 1)
  assert error(expected, halves(*to_torch(inputs()))) <= LIMIT
  away = model.load_lora(file, -SCALE).state_dict()
  for name, x in arrays("cca").items():
    np.testing.assert_allclose(away[name], x, rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
  ("change", "words"),
  [
    ({"fusion.0.video.to_q.lora_A.weight": (3, 31)}, "of another model"),
    ({"fusion.0.video.to_q.lora_B.weight": (32, 2)}, "of another model"),
    ({"fusion.9.video.to_q.lora_A.weight": (3, 32)}, "is no LoRA of a layer"),
    ({"transformer.blocks.0.norm2.lora_A.weight": (2, 2)}, "is no LoRA of"),
    ({"x": (2, 2)}, "is no LoRA of a layer"),
    ({"lora_full.x": (2, 2)}, "is no parameter"),
    ({"lora_full.fusion.0.video.context": (2, 2)}, "is no parameter"),
    ({}, "cannot be read"),
  ],
)
def test_a_file_that_does_not_fit_changes_nothing(
  file, tmp_path, change, words
):
  path = tmp_path / "x.safetensors"
  tensors, alpha = torch_lora.read(file)
  tensors |= {name: torch.ones(shape) for name, shape in change.items()}
  about = {"alpha": json.dumps(alpha)} if change else {}
  safetensors_torch.save_file(tensors, path, about)
  model = fresh()
  with pytest.raises(ValueError, match=words):
    model.load_lora(path)
  for name, x in arrays("cca").items():
    np.testing.assert_array_equal(model.state_dict()[name], x)


def test_what_is_no_file_or_scale_is_refused(file, tmp_path):
  for path, scale, words in (
    (tmp_path / "none", 1.0, "cannot be read"),
    (file, float("nan"), "scale=nan"),
    (file, float("inf"), "scale=inf"),
  ):
    with pytest.raises(ValueError, match=words):
      fresh().load_lora(path, scale)

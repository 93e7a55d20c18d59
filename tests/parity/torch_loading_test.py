"""`CCL.from_pretrained`: models of exports, old ones too, and errors."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from ccl_jax import config
from tests.convert.joints import MODELS
from tests.parity.torch_ccl import (
  BOUND,
  arrays,
  error,
  inputs,
  to_torch,
  torch,
  torch_model,
)


def save(folder, shards=1, drop=(), **config):
  """Writes the folder of an export."""
  folder = folder / "transformer"
  folder.mkdir(parents=True)
  tensors = {n: x for n, x in arrays("cca").items() if n not in drop}
  names = sorted(tensors)
  stem = "diffusion_pytorch_model"
  for i in range(shards):
    part = {name: tensors[name] for name in names[i::shards]}
    numbered = f"-{i + 1:05d}-of-{shards:05d}" if shards > 1 else ""
    save_file(part, folder / f"{stem}{numbered}.safetensors")
  about = {"_class_name": "CCL", "ccl_version": 1} | MODELS["cca"] | config
  (folder / "config.json").write_text(json.dumps(about))
  return folder.parent


@pytest.mark.parametrize("shards", [1, 3])
def test_from_pretrained(tmp_path, shards):
  model = torch_model.CCL.from_pretrained(save(tmp_path, shards))
  loaded, expected = model.state_dict(), arrays("cca")
  assert loaded.keys() == expected.keys()
  for name, x in expected.items():
    np.testing.assert_array_equal(loaded[name], x)


def test_an_export_of_an_earlier_version(tmp_path):
  """Keys of its config.json have other names."""
  old = dict(
    kind="cca", audio_context=2, video_context=3, audio_half=0, video_half=1
  )
  new = MODELS["cca"]["fusion"] | dict(
    audio_window_radius=0, video_window_radius=1
  )
  sampling = dict(method="euler", steps=3, video_scale=2.0, shift=4.0)
  load, given = torch_model.CCL.from_pretrained, to_torch(inputs())
  model = load(save(tmp_path / "old", fusion=old, sampling=sampling))
  expected = load(save(tmp_path / "new", fusion=new))
  assert model.config["fusion"] == new
  assert model.config["sampling"] == dict(
    solver="euler", num_inference_steps=3, video_guidance_scale=2.0, shift=4.0
  )
  assert error(expected(*given), model(*given)) == 0


def test_names_of_earlier_versions_are_those_of_the_config():
  """But for two keys that change memory and time, not the latents."""
  renamed = {
    old.rpartition(".")[2]: new.rpartition(".")[2]
    for old, new in config.RENAMED.items()
    if old.startswith(("model.fusion.", "sampling."))
  }
  del renamed["batched"], renamed["reference_once"]
  assert renamed == torch_model.RENAMED


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

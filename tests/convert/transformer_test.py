"""From files of PyTorch to the step that training takes from them."""

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from ccl_jax.checkpoints import restore
from ccl_jax.convert import (
  inspection,
  matching,
  torch_files,
  transformer,
  wan,
)
from ccl_jax.convert.state_dict import iter_state_dict
from ccl_jax.params import trees
from ccl_jax.training.state import abstract_state, state_params
from tests.models import tiny
from tests.training.setups import make_setup

TINY = {
  key: tiny.SETTINGS[key] for key in ("num_layers", "text_width", "video")
}
SIZES = {"large": {**TINY, "num_layers": 5}, "tiny": TINY}


@pytest.fixture(scope="module")
def params():
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda x: rng.standard_normal(x.shape, np.float32),
    transformer.param_shapes(TINY),
  )


@pytest.fixture(scope="module", params=["wan", "diffusers"])
def file(request, params, tmp_path_factory):
  """A file of PyTorch in either layout, in the folder where it is published."""
  folder = tmp_path_factory.mktemp(request.param)
  inside = folder / "transformer" if request.param == "diffusers" else folder
  inside.mkdir(exist_ok=True)
  theirs = dict(iter_state_dict(params, wan.tables(TINY)[request.param]))
  save_file(theirs, inside / "diffusion_pytorch_model.safetensors")
  return folder


def test_training_starts_from_it(file, params, tmp_path):
  """The joint model takes its video stream from it, onto its mesh."""
  about = transformer.from_torch(file, tmp_path / "wan", sizes=SIZES)
  assert about["size"] == "tiny"
  assert about["parameters"] == trees.count(params)
  setup = make_setup(jax.devices()[:2])
  taken = restore.initial_params(
    state_params(abstract_state(setup)),
    [("video/.*", tmp_path / "wan")],
    ["audio/.*", "fusion/.*"],
  )
  expected = trees.flatten(params)
  assert taken.keys() == expected.keys()
  for path, x in expected.items():
    np.testing.assert_array_equal(taken[path], x, err_msg=path)
    assert len(taken[path].sharding.device_set) == 2
  text = inspection.report(tmp_path / "wan")
  assert 'size: "tiny"' in text and "trainable/video" in text


def test_any_mesh_reads_it(file, params, tmp_path):
  transformer.from_torch(file, tmp_path / "wan", sizes=SIZES)
  shapes = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params
  )
  found, number = restore.read_params(tmp_path / "wan", shapes)
  assert number == 0
  jax.tree.map(np.testing.assert_array_equal, found, params)


def test_the_file_tells_that_it_is_told_of_images(tmp_path):
  image = dict(condition_channels=5, image_width=6)
  settings = {**TINY, "video": {**TINY["video"], **image}}
  sizes = {**SIZES, "tiny-i2v": settings}
  params = jax.tree.map(
    lambda x: np.ones(x.shape, x.dtype), transformer.param_shapes(settings)
  )
  theirs = dict(iter_state_dict(params, wan.tables(settings)["wan"]))
  save_file(theirs, tmp_path / "x.safetensors")
  about = transformer.from_torch(
    tmp_path / "x.safetensors", tmp_path / "wan", sizes=sizes
  )
  assert about["size"] == "tiny-i2v"
  theirs["img_emb.emb_pos"] = np.ones((1, 514, 6), np.float32)
  save_file(theirs, tmp_path / "y.safetensors")
  with pytest.raises(ValueError, match="FLF2V"):
    transformer.from_torch(
      tmp_path / "y.safetensors", tmp_path / "out", sizes=sizes
    )
  assert not (tmp_path / "out").exists()


def test_errors_leave_nothing(file, params, tmp_path):
  output = tmp_path / "wan"
  with pytest.raises(ValueError, match="expected one of large, tiny"):
    transformer.from_torch(file, output, "14b", SIZES)
  with pytest.raises(ValueError, match="not in the file"):
    transformer.from_torch(file, output, "large", SIZES)
  (tmp_path / "cut").mkdir()
  theirs = dict(iter_state_dict(params, wan.tables(TINY)["wan"]))
  cut = tmp_path / "cut" / "x.safetensors"
  save_file(theirs, cut)
  cut.write_bytes(cut.read_bytes()[:-10])
  with pytest.raises(ValueError, match="cut short"):
    transformer.from_torch(cut, output, "tiny", SIZES)
  assert [path.name for path in tmp_path.iterdir()] == ["cut"]


@pytest.mark.parametrize(
  "names",
  [("high_noise_model", "low_noise_model"), ("transformer", "transformer_2")],
)
def test_an_expert_of_two_is_chosen(params, tmp_path, names):
  """In the folders of Wan-AI and of diffusers; without a choice it is asked."""
  scheme = "wan" if "noise" in names[0] else "diffusers"
  experts = {}
  for factor, expert, name in zip((1, 2), ("high", "low"), names, strict=True):
    experts[expert] = jax.tree.map(lambda x, f=factor: f * x, params)
    theirs = iter_state_dict(experts[expert], wan.tables(TINY)[scheme])
    folder = tmp_path / "x" / name
    folder.mkdir(parents=True)
    save_file(dict(theirs), folder / "diffusion_pytorch_model.safetensors")
  shapes = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params
  )
  for expert, expected in experts.items():
    output = tmp_path / expert
    transformer.from_torch(tmp_path / "x", output, sizes=SIZES, expert=expert)
    found, _ = restore.read_params(output, shapes)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
  for folder, expert, words in (
    ("x", None, "--expert=high or --expert=low"),
    ("x", "both", "expected one of high, low"),
    (f"x/{names[0]}", "low", "no two experts"),
  ):
    with pytest.raises(ValueError, match=words):
      transformer.from_torch(
        tmp_path / folder, tmp_path / "out", sizes=SIZES, expert=expert
      )
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
  ("size", "channels"), [("14b", 16), ("14b-i2v-2.2", 36)]
)
def test_wan_2_2_a14b_is_our_video_stream(size, channels):
  """Names and shapes of diffusers' class by its published config."""
  torch, diffusers = map(pytest.importorskip, ("torch", "diffusers"))
  with torch.device("meta"):
    theirs = diffusers.WanTransformer3DModel(
      patch_size=(1, 2, 2), num_attention_heads=40, attention_head_dim=128,
      in_channels=channels, out_channels=16, text_dim=4096, freq_dim=256,
      ffn_dim=13824, num_layers=40, cross_attn_norm=True,
      qk_norm="rms_norm_across_heads", eps=1e-6, image_dim=None,
      added_kv_proj_dim=None, rope_max_seq_len=1024, pos_embed_seq_len=None,
    ).state_dict()  # fmt: skip
  shapes = {
    name: jax.ShapeDtypeStruct(tuple(x.shape), np.float32)
    for name, x in theirs.items()
  }
  state = torch_files.LazyStateDict("meta", shapes, theirs.get, {})
  found = matching.recognise(
    state.shapes, wan.SIZES, wan.tables, transformer.param_shapes
  )
  assert found == (size, "diffusers")
  settings = wan.SIZES[size]
  ours = trees.flatten(transformer.param_shapes(settings))
  table = wan.tables(settings)["diffusers"]
  assert matching.match(table, shapes, ours)

"""Files of every codec become folders: once, complete, of the right model."""

import dataclasses
import logging
import os

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from ccl_jax.codecs import (
  bigvgan,
  clip,
  converted_weights,
  mmaudio_vae,
  umt5,
  wan_vae,
  wav2vec2,
)
from ccl_jax.convert import codecs
from ccl_jax.convert.state_dict import iter_state_dict
from ccl_jax.params import trees
from tests.convert.loading import from_dict, load

TINY = {
  "wan-vae": wan_vae.WanVAEConfig(base=4),
  "umt5": umt5.UMT5Config(
    vocab=20, width=8, ffn=12, heads=2, head_size=4, layers=2
  ),
  "clip": clip.CLIPVisionConfig(
    image=4, patch=2, width=8, ffn=12, heads=2, layers=3
  ),
  "mmaudio": mmaudio_vae.MMAudioVAEConfig(num_mels=6, channels=3, width=8),
  "bigvgan": bigvgan.BigVGANConfig(
    num_mels=6, width=8, rates=(2, 2), kernels=(4, 4), block_kernels=(3, 5)
  ),
  "wav2vec2": wav2vec2.Wav2Vec2Config(
    width=8, ffn=12, heads=2, layers=2, channels=6, positions=4, groups=2
  ),
}  # fmt: skip
LAYOUTS = [
  (name, layout)
  for name, settings in TINY.items()
  for layout in codecs.MODELS[name].tables(settings)
]


@pytest.fixture(autouse=True)
def warned_again():
  converted_weights.warn_once.cache_clear()


def tiny(name):
  return dataclasses.replace(codecs.MODELS[name], sizes=(TINY[name],))


@pytest.fixture
def tiny_models(monkeypatch):
  """The list of models has the smallest of each."""
  for name in TINY:
    monkeypatch.setitem(codecs.MODELS, name, tiny(name))


def draw(name, layout):
  """A file's arrays in a layout, and the parameters that they are."""
  model, rng = codecs.MODELS[name], np.random.default_rng(0)
  shapes = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, np.float32),
    model.shapes(TINY[name]),
  )
  params = jax.tree.map(
    lambda x: 0.02 * rng.standard_normal(x.shape, np.float32), shapes
  )
  table = model.tables(TINY[name])[layout]
  theirs = dict(iter_state_dict(params, table))
  return theirs, load(from_dict(theirs), table, shapes), shapes


@pytest.mark.parametrize("name, layout", LAYOUTS)
def test_every_layout_of_every_model(name, layout, tmp_path, tiny_models):
  theirs, params, shapes = draw(name, layout)
  save_file(theirs, tmp_path / "x.safetensors")
  about = codecs.convert(name, tmp_path, tmp_path / "there")
  assert (about["model"], about["layout"]) == (name, layout)
  assert about["parameters"] == trees.count(shapes)
  found = converted_weights.read(tmp_path / "there", shapes)
  jax.tree.map(np.testing.assert_array_equal, found, params)


@pytest.mark.parametrize("name", TINY)
def test_settings_come_back(name, tmp_path, tiny_models):
  theirs, _, _ = draw(name, next(iter(tiny(name).tables(TINY[name]))))
  save_file(theirs, tmp_path / "x.safetensors")
  codecs.convert(name, tmp_path, tmp_path / "there")
  settings = converted_weights.read_metadata(tmp_path / "there")["settings"]
  frozen = {
    k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()
  }
  assert type(TINY[name])(**frozen) == TINY[name]


@pytest.fixture
def vocoder(tmp_path, monkeypatch):
  """A file of the smallest vocoder, which the list then knows."""
  monkeypatch.setitem(codecs.MODELS, "bigvgan", tiny("bigvgan"))
  file = tmp_path / "best_netG.safetensors"
  save_file(draw("bigvgan", "bigvgan")[0], file)
  return file


def test_weights_are_converted_once(vocoder, monkeypatch):
  folder = codecs.open_weights("bigvgan", vocoder)
  assert os.fspath(folder) == f"{vocoder}.ccl"
  changed = converted_weights.read_metadata(folder)["source"]["changed"]
  with monkeypatch.context() as patch:
    patch.setattr(codecs, "convert", None)
    assert codecs.open_weights("bigvgan", vocoder) == folder
    assert codecs.open_weights("bigvgan", folder) == folder
  os.utime(vocoder, ns=(changed + 1, changed + 1))
  assert codecs.open_weights("bigvgan", vocoder) == folder
  source = converted_weights.read_metadata(folder)["source"]
  assert source["changed"] == changed + 1


def test_the_cache_may_be_elsewhere(vocoder, tmp_path, monkeypatch):
  monkeypatch.setenv("CCL_CACHE", str(tmp_path / "cache"))
  folder = codecs.open_weights("bigvgan", vocoder)
  assert folder.parent == tmp_path / "cache"
  assert converted_weights.exists(folder)
  assert not os.path.exists(f"{vocoder}.ccl")


def test_the_licence_is_told_once(vocoder, caplog):
  with caplog.at_level(logging.WARNING):
    folder = codecs.open_weights("bigvgan", vocoder)
    codecs.open_weights("bigvgan", folder)
    shapes = codecs.MODELS["bigvgan"].shapes(TINY["bigvgan"])
    converted_weights.read(folder, shapes)
  logged = [r.message for r in caplog.records if "CC-BY-NC" in r.message]
  assert logged == [codecs.MODELS["bigvgan"].notice]
  assert "CC-BY-NC" in codecs.MODELS["mmaudio"].notice


def test_what_is_wrong_is_told(vocoder, tmp_path):
  with pytest.raises(ValueError, match=r"'vae'; known: wan-vae, umt5"):
    codecs.open_weights("vae", vocoder)
  with pytest.raises(ValueError, match="No file or folder"):
    codecs.open_weights("bigvgan", tmp_path / "nothing.pt")
  with pytest.raises(ValueError, match="do not fit the model"):
    codecs.open_weights("mmaudio", vocoder)
  folder = codecs.open_weights("bigvgan", vocoder)
  with pytest.raises(ValueError, match="the weights of bigvgan, not of umt5"):
    codecs.open_weights("umt5", folder)
  kept = sorted(path.name for path in tmp_path.iterdir())
  assert kept == ["best_netG.safetensors", "best_netG.safetensors.ccl"]


def test_the_file_tells_its_size(tmp_path, monkeypatch):
  """Two sizes with the same names are told apart by shapes."""
  wide = mmaudio_vae.MMAudioVAEConfig(num_mels=9, channels=3, width=8)
  model = dataclasses.replace(tiny("mmaudio"), sizes=(wide, TINY["mmaudio"]))
  monkeypatch.setitem(codecs.MODELS, "mmaudio", model)
  save_file(draw("mmaudio", "diffusers")[0], tmp_path / "x.safetensors")
  about = codecs.convert("mmaudio", tmp_path, tmp_path / "there")
  assert about["settings"]["num_mels"] == 6 and about["layout"] == "diffusers"


def test_the_model_is_found_in_the_folder_that_publishes_it(tmp_path):
  (tmp_path / "vae").mkdir()
  (tmp_path / "model_index.json").write_text("{}")
  assert codecs.find_weights(tmp_path, ("a.pth", "vae")) == tmp_path / "vae"
  assert codecs.find_weights(tmp_path / "vae", ("vae",)) == tmp_path / "vae"

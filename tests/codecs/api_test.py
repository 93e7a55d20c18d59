"""Codecs are saved and loaded, and imported at their first use."""

import json
import subprocess
import sys

import numpy as np
import pytest

from ccl_jax.codecs import api
from ccl_jax.codecs.api import Codecs
from ccl_jax.codecs.clip import CLIPImageCodec
from ccl_jax.params.sharding import ONE_DEVICE
from tests.data import clips, learned


@pytest.fixture(scope="module")
def codecs():
  return clips.codecs()


def test_codecs_come_back_as_they_were(tmp_path, codecs):
  codecs.save(tmp_path / "codecs")
  loaded = Codecs.load(tmp_path / "codecs")
  video, audio = clips.clip(3)
  np.testing.assert_array_equal(
    loaded.video.encode(video[None]), codecs.video.encode(video[None])
  )
  np.testing.assert_array_equal(
    loaded.audio.encode(audio[None]), codecs.audio.encode(audio[None])
  )
  assert loaded.text == codecs.text
  names = sorted(path.name for path in tmp_path.rglob("*.*"))
  assert names == ["codecs.json", "codecs.npz"]


def test_an_image_encoder_may_be_there(tmp_path, codecs):
  with_image = codecs._replace(image=CLIPImageCodec("some/folder"))
  with_image.save(tmp_path / "codecs")
  loaded = Codecs.load(tmp_path / "codecs")
  assert loaded.image.settings() == {"weights": "some/folder"}
  assert loaded.equals(codecs) and codecs.image is None


def test_those_that_take_a_layout_get_it(tmp_path, monkeypatch, codecs):
  monkeypatch.setattr(api, "KINDS", api.KINDS | learned.KINDS)
  layout = api.Layout(max_unsharded=0.5)
  learned.make().save(tmp_path / "codecs")
  loaded = Codecs.load(tmp_path / "codecs", layout)
  assert loaded.video.layout == layout
  assert Codecs.load(tmp_path / "codecs").video.layout == ONE_DEVICE
  assert loaded.equals(learned.make()) and not loaded.equals(codecs)
  assert api.kind_of(loaded.video) == "fake_video"


def test_codecs_that_are_not_used_are_not_imported():
  code = (
    "import sys; from ccl_jax.codecs import api;"
    "sizes = dict(width=4, max_length=2);"
    "api.make_codec('hashed_text', api.ONE_DEVICE, sizes);"
    "found = [m for m in sys.modules if m.startswith('ccl_jax.codecs.')];"
    "assert set(found) == {'ccl_jax.codecs.api',"
    " 'ccl_jax.codecs.hashed_text', 'ccl_jax.codecs.quotation'}, found"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr


def test_what_is_not_codecs_is_refused(tmp_path, codecs):
  with pytest.raises(ValueError, match="not a codec directory"):
    Codecs.load(tmp_path)
  codecs.save(tmp_path / "codecs")
  file = tmp_path / "codecs" / "codecs.json"
  settings = json.loads(file.read_text())
  settings["video"]["kind"] = "strange"
  file.write_text(json.dumps(settings))
  with pytest.raises(ValueError, match=r"'strange'.*linear_video"):
    Codecs.load(tmp_path / "codecs")

import json

import numpy as np
import pytest

from ccl_jax.codecs.bundle import Codecs
from tests.data import clips


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


def test_what_is_not_codecs_is_refused(tmp_path, codecs):
  with pytest.raises(ValueError, match="not a codec directory"):
    Codecs.load(tmp_path)
  codecs.save(tmp_path / "codecs")
  file = tmp_path / "codecs" / "codecs.json"
  described = json.loads(file.read_text())
  described["video"]["kind"] = "strange"
  file.write_text(json.dumps(described))
  with pytest.raises(ValueError, match=r"'strange'.*linear_video"):
    Codecs.load(tmp_path / "codecs")

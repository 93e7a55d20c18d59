"""The page of a data set."""

import base64
import html.parser
import io
import json

import pytest
from PIL import Image

from ccl_jax.data import decoding, gallery, media
from tests import commands
from tests.data import clips

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)> \u2028 é"


class Scripts(html.parser.HTMLParser):
  """Collects the scripts and all other tags of a page."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.data, self._id = [], {}, None
    self.feed(text)

  def handle_starttag(self, tag, attributes):
    self.tags.append(tag)
    self._id = dict(attributes).get("id") if tag == "script" else None

  def handle_data(self, text):
    if self._id:
      self.data[self._id] = self.data.get(self._id, "") + text


def load(path):
  page = Scripts(path.read_text(encoding="utf-8"))
  return page, {name: json.loads(text) for name, text in page.data.items()}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  codecs = clips.codecs()
  special = {
    1: {"video": None}, 2: {"audio": None}, 3: {"caption": EVIL},
    4: {"name": "c.mp4#t=1,2"}, 5: {"split": "test"},
  }  # fmt: skip
  examples = [clips.example(codecs, i, **special.get(i, {})) for i in range(6)]
  path = tmp_path_factory.mktemp("gallery") / "data"
  clips.write_records(path, codecs, examples)
  return path


def test_a_page_has_frames_sound_and_text(data, tmp_path, monkeypatch):
  monkeypatch.setattr(gallery, "PAGE", 4)
  scores = {"c.mp4": {"file": "c.mp4", "static": 0.25, "sound_hash": "ab"}}
  output = tmp_path / "a.html"
  assert gallery.write_gallery(data, output, frames=3, scores=scores) == 6
  page, found = load(output)
  assert found["index"]["size"] == 4
  texts = found["index"]["clips"]
  assert sorted(x["name"] for x in texts)[:2] == ["c.mp4#t=1,2", "clip 0"]
  by_name = {x["name"]: x for x in texts}
  assert by_name["clip 3"]["caption"] == EVIL
  assert by_name["clip 5"]["split"] == "test"
  assert by_name["c.mp4#t=1,2"]["scores"] == "static=0.25"
  pictures = [*found["part0"], *found["part1"]]
  kinds = {t["name"]: [*p] for t, p in zip(texts, pictures, strict=True)}
  assert kinds["clip 0"] == ["frames", "sound"]
  assert kinds["clip 1"] == ["sound"] and kinds["clip 2"] == ["frames"]
  image = Image.open(io.BytesIO(base64.b64decode(pictures[0]["frames"])))
  assert image.size == (3 * 96, 64)
  # No text of a clip became a tag, and nothing is fetched.
  assert page.tags.count("script") == 4 and "img" not in page.tags
  assert "http" not in output.read_text()


def test_a_folder_is_refused_before_anything_is_drawn(data, tmp_path):
  status, text = commands.call(
    "browse", f"--data={data}", f"--output={tmp_path}"
  )
  assert status == 2
  assert text == f"error: '{tmp_path}': Is a directory\n"


def test_some_clips_are_evenly_chosen(data, tmp_path):
  assert gallery.write_gallery(data, tmp_path / "a.html", num=2) == 2
  train = tmp_path / "b.html"
  assert gallery.write_gallery(data, train, splits=("train",)) == 5
  assert {x["split"] for x in load(train)[1]["index"]["clips"]} == {"train"}


def test_no_data_or_split_is_one_error(data, tmp_path):
  with pytest.raises(ValueError, match="No split 'x'"):
    gallery.write_gallery(data, tmp_path / "a.html", splits=("x",))
  with pytest.raises(ValueError, match="not encoded data"):
    gallery.write_gallery(tmp_path, tmp_path / "a.html")
  assert not list(tmp_path.iterdir())


def test_clips_of_all_shapes_are_on_one_page(tmp_path):
  shapes = {(5, clips.SIZE): 2, (9, (16, 16)): 1, (1, clips.SIZE): 1}
  data = clips.write_shapes(tmp_path / "data", "a", shapes)
  assert gallery.write_gallery(data, tmp_path / "a.html") == 4
  _, found = load(tmp_path / "a.html")
  assert [x["shape"] for x in found["index"]["clips"]] == [
    "5x16x24", "5x16x24", "9x16x16", "1x16x24"
  ]  # fmt: skip
  names = decoding.decode_records(data, tmp_path / "out", "train", 3)
  assert [x.rsplit(".", 1)[0] for x in names] == [
    "a 5x16x24 0", "a 5x16x24 1", "a 9x16x16 0"
  ]  # fmt: skip
  read = media.read_clip(tmp_path / "out" / names[2])
  assert read.video.shape == (9, 16, 16, 3)

"""Scores of clips whose faults are known."""

import functools
import json
import os
import sys
import types

import av
import numpy as np
import pytest
import scipy.ndimage
from PIL import ExifTags, Image

from ccl_jax.data import media
from ccl_jax.data.encode.clip_files import list_clip_files
from ccl_jax.data.scores import duplicates, measures, table

FRAMES, SIZE, RATE = 50, (48, 64), 16_000


def noise(seed, level=0.1):
  """Tones that begin and end, in a little noise."""
  rng = np.random.default_rng(seed)
  t = np.arange(2 * RATE) / RATE
  tones = np.sin(2 * np.pi * rng.uniform(100, 7000, (8, 1)) * t)
  gates = np.repeat(rng.integers(0, 2, (8, 16)), 2 * RATE // 16, axis=1)
  wave = (tones * gates).sum(0) + rng.normal(0, 0.05, 2 * RATE)
  return (level * wave / wave.std()).astype(np.float32)


def write(path, video=None, audio=None):
  if video is None:
    media.write_wav(path, audio, RATE)
  else:
    # Without loss, so that equal frames are decoded as equal ones.
    media.write_mp4(path, video, 25.0, audio, RATE, crf=0)


def moving(seed):
  """A pattern of colours that moves to the right."""
  rng = np.random.default_rng(seed)
  image = scipy.ndimage.zoom(rng.uniform(0, 255, (6, 8, 3)), (8, 8, 1), order=1)
  frames = [np.roll(image, step, 1) for step in range(FRAMES)]
  return np.clip(frames, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp("clips")
  half = moving(1)[: FRAMES // 2] // 4
  loud = noise(5)
  write(path / "a.mp4", moving(0), noise(0))
  write(path / "black.mp4", np.zeros((FRAMES, *SIZE, 3), np.uint8), noise(1))
  write(path / "brief.mp4", moving(9)[:3], noise(9)[: RATE // 8])
  (path / "broken.mp4").write_bytes((path / "a.mp4").read_bytes()[:2000])
  write(path / "clipped.wav", audio=np.sign(noise(2)).astype(np.float32))
  write(path / "cut.mp4", np.concatenate([half, 255 - half]), noise(3))
  write(path / "mute.mp4", moving(4))
  again = np.clip(moving(0).astype(int) + 4, 0, 255).astype(np.uint8)
  write(path / "same.mp4", again, 0.8 * noise(0))
  write(path / "silent.mp4", moving(6), 0 * loud)
  half_silent = np.where(np.arange(2 * RATE) < RATE, loud, 0).astype(np.float32)
  write(path / "still.mp4", np.repeat(moving(5)[:1], FRAMES, 0), half_silent)
  return path


@pytest.fixture(scope="module")
def scores(folder, tmp_path_factory):
  output = tmp_path_factory.mktemp("scores") / "scores.jsonl"
  return table.score_folder(folder, output, num_workers=0)


def test_faults_have_their_values(scores):
  a = scores["a.mp4"]
  assert a["error"] is None and a["seconds"] == 2.0
  assert (a["width"], a["height"]) == (64, 48)
  assert a["has_video"] and a["has_audio"]
  assert (
    a["black"] == a["static"] == a["silent"] == a["clipped"] == a["cuts"] == 0
  )
  assert a["rms_db"] == pytest.approx(-20, abs=1)
  assert scores["black.mp4"]["black"] == scores["black.mp4"]["static"] == 1
  assert (
    "needed" in scores["broken.mp4"]["error"] or scores["broken.mp4"]["error"]
  )
  assert scores["broken.mp4"]["static"] is None
  assert scores["clipped.wav"]["clipped"] > 0.95
  assert not scores["clipped.wav"]["has_video"]
  assert scores["clipped.wav"]["black"] is None
  assert scores["cut.mp4"]["cuts"] == 1
  assert (
    not scores["mute.mp4"]["has_audio"] and scores["mute.mp4"]["silent"] is None
  )
  assert scores["silent.mp4"]["silent"] == 1
  assert scores["still.mp4"]["static"] == 1
  assert scores["still.mp4"]["silent"] == pytest.approx(0.5, abs=0.06)
  assert scores["brief.mp4"]["error"] is None


def test_duplicates_look_and_sound_the_same(scores):
  found = {
    k: row["duplicate_of"] for k, row in scores.items() if row["duplicate"]
  }
  assert found == {"same.mp4": "a.mp4"}


def test_blur_is_seen():
  sharp = np.random.default_rng(0).integers(0, 255, (3, 256, 256, 3), np.uint8)
  smooth = np.broadcast_to(
    np.linspace(0, 255, 256).astype(np.uint8)[:, None, None], (3, 256, 256, 3)
  )
  assert measures.score_pictures(sharp)["blurred"] == 0
  assert measures.score_pictures(smooth)["blurred"] == 1


def test_cuts_stand_out_from_motion():
  motion = np.array([30.0, 28, 35, 31, 90, 33, 30])
  calm = np.array([1.0, 0, 60, 0, 1, 1, 55])
  assert measures.count_cuts(motion) == 0
  assert measures.count_cuts(calm) == 2
  assert measures.count_cuts(np.zeros(0)) == 0


def test_hashes_do_not_depend_on_level_and_differ_between_clips():
  sounds = [
    noise(i) * np.linspace(0, 1, 2 * RATE, dtype=np.float32) for i in range(6)
  ]
  hashes = [duplicates.hash_sound(x) for x in sounds]
  assert duplicates.hash_sound(0.5 * sounds[0]) == hashes[0]
  rows = {
    f"{i}": {"picture_hash": None, "sound_hash": x}
    for i, x in enumerate(hashes)
  }
  assert duplicates.find_duplicates(rows) == {}
  near = f"{int(hashes[2], 16) ^ (0x7FFF << 40):064x}"
  far = f"{int(hashes[3], 16) ^ ((2**41 - 1) << 40):064x}"
  rows |= {"n": {"sound_hash": near}, "f": {"sound_hash": far}}
  assert duplicates.find_duplicates(rows) == {"n": "2"}
  assert duplicates.hash_sound(np.zeros(RATE, np.float32)) is None
  assert duplicates.hash_pictures(np.full((9, 64, 64), 7, np.float32)) is None


def test_a_second_run_scores_what_is_new(folder, scores, tmp_path, monkeypatch):
  output = tmp_path / "scores.jsonl"
  partial = tmp_path / "scores.jsonl.partial"
  rows = [
    json.dumps(scores[name]) for name in ("a.mp4", "black.mp4", "cut.mp4")
  ]
  changed = json.dumps(scores["still.mp4"] | {"bytes": 1})
  partial.write_text("\n".join([*rows, changed, rows[0][:40]]))
  read = []
  real = measures.score_file

  def counted(file, **arguments):
    read.append(file.name)
    return real(file, **arguments)

  monkeypatch.setattr(table, "score_file", counted)
  again = table.score_folder(folder, output, num_workers=0)
  assert again == scores and table.read_scores(output) == scores
  assert set(read) == scores.keys() - {"a.mp4", "black.mp4", "cut.mp4"}
  assert not partial.exists()
  read.clear()
  assert table.score_folder(folder, output, num_workers=0) == scores
  assert read == []


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
  "text", ['{"file": "a.mp4", "text": "A."}\n', "no JSON"]
)
def test_a_file_of_something_else_is_not_replaced(
  folder, tmp_path, text, force
):
  output = tmp_path / "captions.jsonl"
  output.write_text(text)
  with pytest.raises(ValueError, match=r"captions\.jsonl"):
    table.score_folder(folder, output, num_workers=0, force=force)
  with pytest.raises(IsADirectoryError):
    table.score_folder(folder, tmp_path, num_workers=0, force=force)
  assert [path.name for path in tmp_path.iterdir()] == ["captions.jsonl"]
  assert output.read_text() == text


def test_processes_score_the_same(folder, scores, tmp_path):
  found = table.score_folder(folder, tmp_path / "s.jsonl", num_workers=2)
  assert found == scores


def test_long_clips_are_looked_at_from_their_start(folder):
  (file,) = [x for x in list_clip_files(folder) if x.name == "cut.mp4"]
  assert measures.score_file(file, max_seconds=0.8)["cuts"] == 0
  assert measures.score_file(file, max_seconds=0.8)["seconds"] == 2.0


def test_a_condition_chooses_clips(folder, scores):
  files = list_clip_files(folder)
  kept = table.keep(
    files, "static < 0.9 and rms_db > -40 and not duplicate", scores
  )
  assert [x.name for x in kept] == ["a.mp4", "brief.mp4", "cut.mp4"]
  with pytest.raises(ValueError, match="Did you mean 'static'"):
    table.keep(files, "statc < 1", scores)
  with pytest.raises(
    ValueError, match=r"1 clips have no scores, such as a\.mp4"
  ):
    table.keep(
      files, "cuts == 0", {k: x for k, x in scores.items() if k != "a.mp4"}
    )
  without = {k: row | {"lufs": None} for k, row in scores.items()}
  with pytest.raises(ValueError, match="pip install pyloudnorm"):
    table.keep(files, "lufs > -40", without)


def test_images_have_scores_of_a_picture_that_does_not_stand_still(tmp_path):
  exif = Image.Exif()
  exif[ExifTags.Base.Orientation] = 6
  picture = Image.fromarray(moving(0)[0])
  picture.save(tmp_path / "turned.jpg", exif=exif)
  Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "black.png")
  (tmp_path / "broken.png").write_bytes(b"no picture")
  write(tmp_path / "clip.mp4", moving(0), noise(0))
  scores = table.score_folder(tmp_path, tmp_path / "s.jsonl", num_workers=0)
  assert scores["broken.png"]["error"] and not scores["turned.jpg"]["error"]
  size = [scores["turned.jpg"][name] for name in ("width", "height")]
  assert size == [SIZE[0], SIZE[1]]
  found = [scores["black.png"][x] for x in ("black", "static", "cuts", "lufs")]
  assert found == [1.0, 0.0, 0, None]
  kept = table.keep(
    list_clip_files(tmp_path, images=True),
    "static < 0.9 and black == 0 and (rms_db > -40 or not has_audio)", scores,
  )  # fmt: skip
  assert [x.name for x in kept] == ["clip.mp4", "turned.jpg"]


def test_loudness_is_that_of_pyloudnorm_if_it_is_there(monkeypatch):
  class Meter:
    def __init__(self, rate):
      assert rate == RATE

    def integrated_loudness(self, samples):
      assert samples.dtype == np.float64 and len(samples) >= 0.4 * RATE
      return -np.inf if np.abs(samples).max() < 0.01 else -23.0

  module = types.SimpleNamespace(Meter=Meter)
  monkeypatch.setitem(sys.modules, "pyloudnorm", module)
  assert measures.score_sound(noise(0))["lufs"] == -23
  assert measures.score_sound(noise(0)[:50])["lufs"] == -23
  assert measures.score_sound(noise(0, 1e-4))["lufs"] == -120
  assert measures.score_sound(0 * noise(0))["lufs"] == -120
  monkeypatch.setitem(sys.modules, "pyloudnorm", None)
  assert measures.score_sound(noise(0))["lufs"] is None


def test_the_summary_has_a_histogram_of_each_score(scores):
  lines = measures.describe(scores).splitlines()
  (static,) = [x for x in lines if x.startswith("static")]
  assert static.count("|") == 2 and "median 0" in static
  assert measures.describe({}) == ""


def test_scores_that_cannot_be_read_are_one_error(tmp_path):
  with pytest.raises(ValueError, match=r"python -m ccl_jax\.filter"):
    table.read_scores(tmp_path / "scores.jsonl")
  (tmp_path / "scores.jsonl").write_text('{"file": "a"}\nno\n')
  with pytest.raises(ValueError, match=r"scores\.jsonl:2"):
    table.read_scores(tmp_path / "scores.jsonl")


def test_what_has_changed_is_scored_again(tmp_path):
  path, output = tmp_path / "a.wav", tmp_path / "s.jsonl"
  score = functools.partial(table.score_folder, tmp_path, output, num_workers=0)
  write(path, audio=noise(0, 0.1))
  before = score()["a.wav"]
  write(path, audio=noise(0, 0.01))
  os.utime(path, (0, 0))
  after = score()["a.wav"]
  assert after["bytes"] == before["bytes"]
  assert after["rms_db"] == pytest.approx(before["rms_db"] - 20, abs=1)
  wave = noise(0, 0.1)
  wave[RATE:] = 0
  write(path, audio=wave)
  os.utime(path, (0, 9))
  assert score()["a.wav"]["silent"] == pytest.approx(0.5, abs=0.06)
  assert score(max_seconds=1.0)["a.wav"]["silent"] < 0.06


def test_sizes_are_those_that_are_shown(tmp_path):
  with av.open(str(tmp_path / "a.mp4"), "w") as container:
    stream = container.add_stream("libx264", rate=25)
    stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
    stream.codec_context.sample_aspect_ratio = 2
    for image in moving(0)[:5]:
      container.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
    container.mux(stream.encode(None))
  row = table.score_folder(tmp_path, tmp_path / "s", num_workers=0)["a.mp4"]
  assert (row["width"], row["height"]) == (128, 48)

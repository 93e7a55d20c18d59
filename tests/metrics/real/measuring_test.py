"""What of a folder is measured, and by which name."""

import json

import numpy as np
import pytest
import soundfile

from ccl_jax.data import media
from ccl_jax.metrics.real.measuring import measure_folder
from ccl_jax.metrics.real.metric import Scorer
from ccl_jax.metrics.real.rows import Features, RowFile
from tests.data.clips import clip


def measure(folder, output, seen=None):
  """Measures sound by a scorer that notes what it was given."""

  def note(each):
    if seen is not None:
      seen[each.name] = each
    return {"level_db": 0.0}

  rows, features = RowFile(output / "scores.jsonl"), Features(output)
  return measure_folder(str(folder), rows, features, {"sound": Scorer(note)})


def caption(folder, *rows):
  lines = "".join(json.dumps(row) + "\n" for row in rows)
  (folder / "captions.jsonl").write_text(lines)


@pytest.fixture
def folder(tmp_path):
  path = tmp_path / "clips"
  path.mkdir()
  return path


@pytest.mark.parametrize("suffix", ["mp4", "wav"])
@pytest.mark.parametrize(
  "times",
  [
    [(0, 1.2)],
    [(0, 1.2), (1.4, None)],
    [(0, 0.04), (0.04, 0.4), (1.4, 2.4)],
  ],
)
def test_segments_are_clips_of_their_own(folder, tmp_path, suffix, times):
  path = folder / f"a.{suffix}"
  video, audio = clip(0, frames=60)
  if suffix == "wav":
    media.write_wav(path, audio)
  else:
    media.write_mp4(path, video, 25.0, audio)
  rows = [{"file": path.name, "start": a, "end": b or ""} for a, b in times]
  caption(folder, *rows)
  seen, whole = {}, media.read_clip(path, need_video=False)
  rows = measure(folder, tmp_path, seen).rows
  assert len({row["file"] for row in rows}) == len(times) == len(seen)
  assert len({row["sha256"] for row in rows}) == len(times)
  for row, (start, end) in zip(rows, times, strict=True):
    assert row["seconds"] == pytest.approx((end or 2.4) - start)
    part, first = seen[row["file"]], round(start * 25)
    if whole.video is not None:
      expected = whole.video[first : first + len(part.video)]
      np.testing.assert_array_equal(part.video, expected)
    expected = whole.audio[first * 640 :][: len(part.audio)]
    np.testing.assert_allclose(part.audio, expected, atol=0.05)


def test_segments_that_cannot_be_measured_are_named(folder, tmp_path):
  media.write_wav(folder / "a.wav", clip(0, frames=25).audio)
  rows = [{"file": "a.wav", "start": 0, "end": 0.01}]
  rows += [{"file": "a.wav", "start": 3}]
  caption(folder, *rows)
  with pytest.raises(ValueError, match="None of 2 clips can be used") as error:
    measure(folder, tmp_path)
  assert "a.wav#t=0,0.01: segment is too short: 0.01 s" in str(error.value)
  assert "a.wav#t=3: segment begins at 3.00 s, the file" in str(error.value)


def test_only_clips_with_pictures_hide_a_wav(folder, tmp_path):
  video, audio = clip(0, frames=10)
  for stem in ("film", "song", "voice"):
    media.write_wav(folder / f"{stem}.wav", audio)
  media.write_mp4(folder / "film.mp4", video, 25.0, audio)
  (folder / "song.mp4").write_bytes(b"no clip")
  soundfile.write(folder / "voice.flac", audio, 16_000)
  found = measure(folder, tmp_path)
  names = [row["file"] for row in found.rows]
  assert names == ["film.mp4", "song.wav", "voice.flac", "voice.wav"]
  assert found.left_out.keys() == {"film.wav", "song.mp4"}
  assert found.left_out["film.wav"] == "taken for the sound of film.mp4"

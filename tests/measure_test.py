"""A folder of clips to a table, by the command."""

import json

import numpy as np

from ccl_jax.data import media
from tests.commands import call
from tests.data.clips import clip, write_clips


def read(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_from_clips_to_a_table_and_again(tmp_path):
  clips, out = tmp_path / "clips", tmp_path / "out"
  clips.mkdir()
  write_clips(clips, 3, frames=30)
  (clips / "0.wav").write_bytes(b"the sound of 0.mp4, which is read from there")
  media.write_wav(clips / "3.wav", clip(3, frames=30).audio)
  (clips / "broken.mp4").write_bytes(b"no clip")
  arguments = (
    f"--clips={clips}", f"--output={out}", f"--reference={clips}",
    "--metrics=sound,pictures,loudness,wer,sync",
  )  # fmt: skip
  status, text = call("measure", *arguments)
  assert status == 0, text
  assert "1 broken.mp4: Invalid data" in text
  rows = {row["file"]: row for row in read(out / "scores.jsonl")}
  assert list(rows) == ["0.mp4", "1.mp4", "2.mp4", "3.wav"]
  assert rows["0.mp4"]["size"] == [16, 24] and rows["0.mp4"]["seconds"] == 1.2
  assert rows["0.mp4"]["scores"]["wer"]["words"] == 1
  assert rows["3.wav"]["not_measured"] == {
    "pictures": "without pictures",
    "wer": "no spoken words in the caption",
  }
  levels = [row["scores"]["sound"]["level_db"] for row in rows.values()]
  table = (out / "table.md").read_text()
  line = next(x for x in table.splitlines() if "level_db" in x)
  assert f"| {np.mean(levels):.4g} ±" in line
  assert line.count(f"{np.mean(levels):.4g}") == 2  # and of the reference
  assert "not run: put syncnet_v2.model into --weights=FOLDER" in table
  protocol = json.loads((out / "protocol.json").read_text())
  assert protocol["scores"]["left_out"].keys() == {"0.wav", "broken.mp4"}
  assert protocol["metrics"].keys() == {"sound", "pictures", "loudness", "wer"}

  # Scores of before are kept, others are added, those of a new file are new.
  before = read(out / "scores.jsonl")
  before[1]["scores"]["sound"]["level_db"] = 77.0
  before[0]["scores"]["sound"]["level_db"] = 88.0
  lines = "".join(json.dumps(row) + "\n" for row in before)
  (out / "scores.jsonl").write_text(lines)
  video, audio = clip(9, frames=30)
  media.write_mp4(clips / "0.mp4", video, 25.0, audio)
  status, text = call(
    "measure", f"--clips={clips}", f"--output={out}", "--metrics=sound,speech"
  )
  assert status == 0, text
  after = read(out / "scores.jsonl")
  assert after[1]["scores"]["sound"]["level_db"] == 77
  assert after[0]["scores"]["sound"]["level_db"] < 0
  assert "wer" in after[1]["scores"] and "wer" not in after[0]["scores"]
  assert all("speech" in row["scores"] for row in after)
  protocol = json.loads((out / "protocol.json").read_text())
  assert protocol["metrics"].keys() >= {"wer", "speech"}


def test_scores_of_filter_and_of_measure_do_not_replace_each_other(tmp_path):
  clips, file = tmp_path / "clips", tmp_path / "clips" / "scores.jsonl"
  clips.mkdir()
  write_clips(clips, 1, frames=30)
  commands = {
    "filter": ("filter", f"--input={clips}", "--workers=0"),
    "measure": (
      "measure", f"--clips={clips}", f"--output={clips}", "--metrics=sound"
    ),
  }  # fmt: skip
  for first, second in (("filter", "measure"), ("measure", "filter")):
    status, text = call(*commands[first])
    assert status == 0, text
    before = {path.name: path.read_bytes() for path in clips.iterdir()}
    status, text = call(*commands[second])
    assert status == 2 and text.count("\n") == 1, text
    assert f"'{file}' is not of ccl_jax.{second}, which would" in text
    assert {x.name: x.read_bytes() for x in clips.iterdir()} == before
    assert call(*commands[first])[0] == 0  # its own goes on
    file.unlink()


def test_what_cannot_be_used_is_one_line(tmp_path):
  status, text = call(
    "measure", f"--clips={tmp_path}/none", f"--output={tmp_path}/out"
  )
  assert status == 2 and "none' is no folder of clips" in text, text
  assert "Traceback" not in text and not (tmp_path / "out").exists()

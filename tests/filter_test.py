"""Scores by the command line, and encoding of clips that meet a condition."""

import json

import numpy as np

from ccl_jax.data import media, records
from tests.commands import call
from tests.data import clips


def test_scores_choose_the_clips_that_are_encoded(tmp_path):
  folder = tmp_path / "clips"
  folder.mkdir()
  clips.write_clips(folder, 5)
  video, audio = clips.clip(9)
  still = np.repeat(video[:1], len(video), 0)
  media.write_mp4(folder / "3.mp4", still, clips.FPS, audio)
  arguments = ("filter", f"--input={folder}", "--workers=0")
  status, text = call(*arguments, "--keep=statc < 0.9")
  assert status == 2 and "Did you mean 'static'" in text.splitlines()[-1]
  assert not list(folder.glob("scores*"))
  status, text = call(*arguments, "--keep=static < 0.9")
  assert status == 0, text
  assert "Scored 5 clips; 0 cannot" in text and "4 of 5 clips meet" in text
  row = json.loads((folder / "scores.jsonl").read_text().splitlines()[3])
  assert row["file"] == "3.mp4" and row["static"] == 1

  def encode(condition, *more):
    return call(
      "encode", "--config=configs/ccl.py:size=tiny", f"--input={folder}",
      f"--output={tmp_path / 'data'}", "--config.encode.frames=5",
      "--config.encode.size=(16, 16)", "--config.encode.num_workers=0",
      "--config.encode.validation_fraction=0.0", f"--keep={condition}", *more,
    )  # fmt: skip

  status, text = encode("static < 0.9")
  assert status == 0 and "1 clips do not meet the condition" in text, text
  assert records.read_metadata(tmp_path / "data")["counts"] == {"train": 4}
  status, text = encode("statc < 0.9", "--force")
  assert status == 2 and "Did you mean 'static'" in text.splitlines()[-1]
  status, text = encode("static < 0.9", "--force", "--scores=nowhere.jsonl")
  assert status == 2 and "ccl_jax.filter" in text.splitlines()[-1]
  status, text = encode("static < -1", "--force")
  assert status == 2 and "none of 5 clips meets" in text.splitlines()[-1]
  assert records.read_metadata(tmp_path / "data")["counts"] == {"train": 4}

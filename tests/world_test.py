"""python -m ccl_jax.world, from the flags to the files."""

import json
import pathlib
import subprocess
import sys

from ccl_jax.codecs.mel import log_mel
from ccl_jax.data import media
from ccl_jax.data.encode import captions
from ccl_jax.metrics import bootstrap, synchworld

ROOT = pathlib.Path(__file__).parents[1]


def run(*flags):
  return subprocess.run(
    [sys.executable, "-m", "ccl_jax.world", *flags],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )


def test_files_are_made_whole_and_read_back_in_time(tmp_path):
  folder = tmp_path / "world"
  done = run(f"--output={folder}", "--num_train=2", "--num_test=2")
  assert done.returncode == 0, done.stderr
  lines = (folder / "captions.jsonl").read_text().splitlines()
  splits = [json.loads(line)["split"] for line in lines]
  assert splits == ["train", "train", "easy", "easy", "hard", "hard"]
  found = captions.list_clips(folder).clips
  assert len(found) == 6 and all(file.caption for file in found)
  clips = []
  for file in found:
    clip = media.read_clip(file.path, fps=25.0, size=(64, 64), frames=49)
    mel = log_mel(clip.audio[None])[0]
    clips.append(synchworld.measure(file.caption, clip.video, mel))
  scores = bootstrap.aggregate(clips, 10)
  assert scores["EAC"].value > 0.9 and scores["lag ms"].value < 10
  assert scores["SER"].value < 0.05 and scores["ID"].value == 1

  again = run(f"--output={folder}", "--num_train=2", "--num_test=2")
  assert again.returncode == 2
  assert "exists; choose another --output" in again.stderr


def test_a_world_that_cannot_be_made_leaves_nothing(tmp_path):
  failed = run(f"--output={tmp_path / 'world'}", "--num_train=1", "--frames=9")
  assert failed.returncode == 2
  assert failed.stderr.strip().endswith("use more frames.")
  assert list(tmp_path.iterdir()) == []

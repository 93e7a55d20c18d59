"""python -m ccl_jax.world, from the flags to the files."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from ccl_jax.codecs.mel import log_mel
from ccl_jax.data import media
from ccl_jax.data.encode import captions
from ccl_jax.metrics import bootstrap, synchworld
from ccl_jax.metrics.real import words
from tests.data.synthetic import flite

ROOT = pathlib.Path(__file__).parents[1]


def run(*flags, path=""):
  return subprocess.run(
    [sys.executable, "-m", "ccl_jax.world", *flags],
    cwd=ROOT,
    env=os.environ | {"PATH": path or os.environ["PATH"]},
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


@pytest.mark.parametrize(
  ("flag", "words"),
  [
    ("--frames=9", "use more frames."),
    ("--frames=50", "error: --frames=50: expected 1 + 4k, such as 49."),
    ("--size=31", "error: --size=31: expected a positive multiple of 8."),
  ],
)
def test_a_world_that_cannot_be_made_leaves_nothing(tmp_path, flag, words):
  failed = run(f"--output={tmp_path / 'world'}", "--num_train=1", flag)
  assert failed.returncode == 2
  assert failed.stderr.strip().endswith(words)
  assert list(tmp_path.iterdir()) == []


def test_english_has_sentences_in_its_captions_and_phones(tmp_path):
  folder = tmp_path / "world"
  flags = (
    f"--output={folder}", "--speech=english", "--num_train=2", "--num_test=1",
  )  # fmt: skip
  missing = run(*flags, path=str(tmp_path))
  assert missing.returncode == 2 and "apt-get install flite" in missing.stderr
  assert not folder.exists()
  path = f"{flite.install(tmp_path / 'bin')}:{os.environ['PATH']}"
  done = run(*flags, path=path)
  assert done.returncode == 0, done.stderr
  found = captions.list_clips(folder).clips
  lines = (folder / "phones.jsonl").read_text().splitlines()
  phones = {row["file"]: row["phones"] for row in map(json.loads, lines)}
  assert len(found) == 4 and set(phones) == {
    pathlib.Path(x.path).name for x in found
  }
  for file in found:
    spoken = words.spoken_words(file.caption)
    assert spoken.endswith(".") and len(spoken.split()) >= 5
    assert file.caption.endswith(f'"{spoken}" A clear voice.')
  assert phones["easy_1000000.mp4"] == phones["hard_1000000.mp4"]
  starts = {rows[0][1] for rows in phones.values()}
  assert len(starts) == 3 and min(starts) >= 0.08
  clip = media.read_clip(
    folder / "easy_1000000.mp4", fps=25.0, size=(64, 64), frames=81
  )
  assert clip.video.shape == (81, 64, 64, 3) and len(clip.audio) == 51840

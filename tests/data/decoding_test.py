"""Records decoded to mp4 and wav files."""

import subprocess
import sys

import numpy as np
import pytest

from ccl_jax.data import decoding, media
from tests.data import clips


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  codecs = clips.codecs()
  examples = [
    clips.example(codecs, 0, name="a/0.mp4"),
    clips.example(codecs, 1, name="1.mov", audio=None),
    clips.example(codecs, 2, name="2.mp3", video=None),
    clips.example(codecs, 3, name="3.mp4", split="easy"),
    clips.example(codecs, 4, name="1.mkv", audio=None),
    clips.example(codecs, 5, name=f"{'x' * 251}.mp4", split="long"),
    clips.example(codecs, 6, name=f"{'x' * 251}.mov", split="long"),
  ]
  path = tmp_path_factory.mktemp("records") / "data"
  clips.write_records(path, codecs, examples)
  return path


def test_latents_become_the_clips_they_were(data, tmp_path):
  names = decoding.decode_records(data, tmp_path / "out", "train", 8)
  assert names == ["a/0.mp4", "1.mp4", "2.wav", "1_3.mp4"]
  files = [p for p in (tmp_path / "out").rglob("*") if p.is_file()]
  assert len(files) == 5  # and decoded.json
  video, audio = media.read_clip(tmp_path / "out" / "a" / "0.mp4")
  original = clips.clip(0)
  assert video.shape == original.video.shape
  assert np.square(video.astype(float) - original.video).mean() < 250
  assert len(audio) == clips.SAMPLES and 0.01 < audio.std() < 0.3
  silent = media.read_clip(tmp_path / "out" / "1.mp4", need_audio=False)
  assert silent.audio is None
  sound = media.read_clip(tmp_path / "out" / "2.wav", need_video=False)
  assert len(sound.audio) == clips.SAMPLES


def test_as_many_as_asked_for_of_the_split(data, tmp_path):
  names = decoding.decode_records(data, tmp_path / "out", "train", 1)
  assert names == ["a/0.mp4"]
  with pytest.raises(ValueError, match="exists"):
    decoding.decode_records(data, tmp_path / "out", "train", 1)
  with pytest.raises(ValueError, match="No split 'hard'"):
    decoding.decode_records(data, tmp_path / "out", "hard", 1, force=True)
  assert (tmp_path / "out" / "a" / "0.mp4").exists()
  names = decoding.decode_records(data, tmp_path / "out", "easy", 1, force=True)
  assert names == ["3.mp4"]
  found = {p.name for p in (tmp_path / "out").iterdir()}
  assert found == {"3.mp4", decoding.FILE}


@pytest.mark.parametrize("force", [False, True])
def test_only_what_was_decoded_is_replaced(data, tmp_path, force):
  (tmp_path / "mine").mkdir()
  (tmp_path / "mine" / "a.mp4").touch()
  (tmp_path / "link").symlink_to(data)
  for output, reason in (
    (data, "is the input"),
    (tmp_path / "link", "is the input"),
    (data.parent, "holds the input"),
    (data / "codecs", "did not write it"),
    (tmp_path / "mine", "did not write it"),
  ):
    with pytest.raises(ValueError, match=reason):
      decoding.decode_records(data, output, "train", 1, force=force)
  assert (data / "metadata.json").exists()
  assert (tmp_path / "mine" / "a.mp4").exists()


def test_long_names_are_cut_and_stay_different(data, tmp_path):
  names = decoding.decode_records(data, tmp_path / "out", "long", 2)
  assert sorted(p.name for p in (tmp_path / "out").glob("x*")) == sorted(names)
  assert len(set(names)) == 2 and all(len(name) < 220 for name in names)


def test_the_command(data, tmp_path):
  command = [
    sys.executable, "-m", "ccl_jax.encode", "--decode", f"--input={data}",
    f"--output={tmp_path / 'out'}", "--num=2", "--split=easy",
  ]  # fmt: skip
  done = subprocess.run(command, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert "Decoded 1 clips" in done.stdout
  assert (tmp_path / "out" / "3.mp4").exists()

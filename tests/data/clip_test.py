"""Names of files of clips."""

import numpy as np
import pytest

from ccl_jax.data import clip

NOISE = np.zeros(1600, np.float32)


@pytest.mark.parametrize(
  ("name", "written"),
  [
    ("clip_2.0", "clip_2.0.wav"),
    ("clip_2.5", "clip_2.5.wav"),
    ("a.b/clip", "a.b/clip.wav"),
    ("clip.mp4", "clip.wav"),
    ("clip.WAV", "clip.wav"),
    ("v1.mp4.mp4", "v1.mp4.wav"),
    (".mp4", ".mp4.wav"),
    ("e. a.", "e. a..wav"),
  ],
)
def test_only_the_suffix_of_a_clip_is_replaced(tmp_path, name, written):
  sound = clip.GeneratedClip(25.0, 16_000, audio=NOISE)
  assert sound.save(tmp_path / name) == tmp_path / written
  assert (tmp_path / written).stat().st_size > 3200
  pictures = clip.GeneratedClip(
    25.0, 16_000, np.zeros((2, 16, 16, 3), np.uint8)
  )
  path = tmp_path / written.replace(".wav", ".mp4")
  assert pictures.save(tmp_path / name) == path and path.exists()


def test_names_are_different_and_short_enough():
  names = clip.FileNames()
  wide = "\u4e16" * 85  # 255 bytes
  given = ["a/x.mp4", "b/x.mp4", "x.mp4", "x.mov", "x", "x_4.mp4", "x_3",
           f"{wide}.mp4", f"{wide}.mov", f"{wide}2.mov", "x" * 251 + ".mp4",
           "../x.mp4", "/x.mp4", "..", "x_2.0", "x_2.5", "d.mp4/y.mov", "d.mov",
           "x.mp4/z"]  # fmt: skip
  made = [names.make(name, ".mp4", i) for i, name in enumerate(given)]
  assert made[:7] == [
    "a/x.mp4", "b/x.mp4", "x.mp4", "x_3.mp4", "x_4.mp4", "x_4_5.mp4",
    "x_3_6.mp4",
  ]  # fmt: skip
  assert made[-5:] == [
    "x_2.0.mp4", "x_2.5.mp4", "d.mp4/y.mp4", "d_17.mp4", "x.mp4_z.mp4"
  ]  # fmt: skip
  assert len(set(made)) == len(given)
  assert all(len(part.encode()) < 220 for x in made for part in x.split("/"))
  again = clip.FileNames()
  assert [again.make(x, ".mp4", i) for i, x in enumerate(given)] == made


def test_the_same_name_may_have_two_suffixes():
  names = clip.FileNames()
  assert names.make("a.mp4", ".mp4", 0) == "a.mp4"
  assert names.make("a.mp3", ".wav", 1) == "a.wav"

"""Decoding clips in processes."""

import os

import av
import pytest

from ccl_jax.data import media
from ccl_jax.data.encode import captions, clip_files, decode_pool
from tests.data import clips

ARGUMENTS = dict(
  need_caption=False, fps=clips.FPS, size=clips.SIZE, frames=clips.FRAMES
)


class Deadly(os.PathLike):
  """A file at which the process that reads it dies."""

  def __fspath__(self):
    os._exit(1)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_clips_come_in_order_with_errors_in_their_place(tmp_path, num_workers):
  clips.write_clips(tmp_path, 3)
  (tmp_path / "1.mp4").write_text("not a clip")
  listed = captions.list_clips(tmp_path).clips
  with decode_pool.DecodePool(num_workers, 2, **ARGUMENTS) as decode:
    found = list(decode(listed))
    again = list(decode(listed[:1]))
  assert [file.name for file, _ in found] == ["0.mp4", "1.mp4", "2.mp4"]
  kinds = [isinstance(clip, media.Clip) for _, clip in found]
  assert kinds == [True, False, True]
  assert again[0][1].video.shape == found[0][1].video.shape


class Raising(os.PathLike):
  """A file at which the reader raises what no reader should."""

  def __init__(self, error):
    self.error = error

  def __fspath__(self):
    raise self.error


@pytest.mark.parametrize(
  "error",
  [
    MemoryError("of 9 GB"), ValueError("Frame does not match"),
    RuntimeError("two\nlines"), KeyError("x"), RecursionError(),
    StopIteration(), av.FFmpegError(1, "odd"),
  ],
)  # fmt: skip
def test_whatever_a_reader_raises_costs_one_clip(tmp_path, error):
  clips.write_clips(tmp_path, 2)
  first, last = captions.list_clips(tmp_path).clips
  bad = clip_files.ClipFile(Raising(error), "bad.mp4")
  with decode_pool.DecodePool(0, **ARGUMENTS) as decode:
    found = [clip for _, clip in decode([first, bad, last])]
  assert [type(clip) for clip in found] == [
    media.Clip, media.ClipError, media.Clip
  ]  # fmt: skip
  assert "\n" not in str(found[1]) and type(error).__name__ in str(found[1])


def test_a_clip_at_which_the_process_dies_is_left_out_by_name(tmp_path):
  clips.write_clips(tmp_path, 3)
  listed = captions.list_clips(tmp_path).clips
  listed.insert(1, clip_files.ClipFile(Deadly(), "deadly.mp4"))
  with decode_pool.DecodePool(1, **ARGUMENTS) as decode:
    found = list(decode(listed))
  assert [file.name for file, _ in found] == [file.name for file in listed]
  assert [isinstance(clip, media.Clip) for _, clip in found] == [
    True, False, True, True
  ]  # fmt: skip
  assert "the process that decodes it died" in str(found[1][1])


def test_processes_that_die_at_every_clip_are_an_error(monkeypatch):
  monkeypatch.setattr(decode_pool, "MAX_DEATHS", 2)
  listed = [clip_files.ClipFile(Deadly(), f"{i}.mp4") for i in range(3)]
  with (
    decode_pool.DecodePool(1, **ARGUMENTS) as decode,
    pytest.raises(ValueError, match=r"1\.mp4: .* died, as 1 before it"),
  ):
    list(decode(listed))

"""Decoding clips in processes."""

import os

import pytest

from ccl_jax.data import media
from ccl_jax.data.encode import captions, decode_pool
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
  listed = captions.list_clips(tmp_path)
  with decode_pool.DecodePool(num_workers, 2, **ARGUMENTS) as decode:
    found = list(decode(listed))
    again = list(decode(listed[:1]))
  assert [file.name for file, _ in found] == ["0.mp4", "1.mp4", "2.mp4"]
  kinds = [isinstance(clip, media.Clip) for _, clip in found]
  assert kinds == [True, False, True]
  assert again[0][1].video.shape == found[0][1].video.shape


def test_a_process_that_dies_is_an_error_that_tells_where():
  listed = [captions.ClipFile(Deadly(), f"{i}.mp4") for i in range(3)]
  with (
    decode_pool.DecodePool(1, **ARGUMENTS) as decode,
    pytest.raises(ValueError, match=r"died: out of memory, or at .* 0\.mp4"),
  ):
    list(decode(listed))

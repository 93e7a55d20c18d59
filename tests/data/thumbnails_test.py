"""Pictures beside a film are not what is read."""

import av
import numpy as np
import pytest

from ccl_jax.data import media
from tests.data import flash


@pytest.mark.parametrize(
  ("suffix", "codec", "num", "marked"),
  [("mov", "mjpeg", 1, True), ("mov", "mjpeg", 1, False),
   ("mov", "mjpeg", 2, False), ("mp4", "libx264", 2, False),
   ("mkv", "mjpeg", 1, False), ("avi", "mjpeg", 1, False),
   ("avi", "libx264", 1, False), ("ts", "libx264", 1, False)],
)  # fmt: skip
def test_the_film_is_read_and_not_its_thumbnail(
  tmp_path, suffix, codec, num, marked
):
  """Whether it is marked as one or not, and in few pictures or one."""
  video = np.stack([flash.picture(is_lit=i == 12) for i in range(25)])
  path = tmp_path / f"a.{suffix}"
  with av.open(str(path), "w") as container:
    cover = container.add_stream(codec, rate=25)
    cover.height, cover.width = 48, 64
    cover.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    film = container.add_stream("libx264", rate=25)
    film.height, film.width, film.pix_fmt = 96, 128, "yuv420p"
    if marked:
      cover.disposition = av.stream.Disposition.attached_pic
    for i, image in enumerate(video):
      frame = av.VideoFrame.from_ndarray(image, format="rgb24")
      frame.pts = i
      container.mux(film.encode(frame))
      if i < num:
        container.mux(cover.encode(frame.reformat(64, 48, cover.pix_fmt)))
    container.mux([*cover.encode(None), *film.encode(None)])
  clip = media.read_clip(path, streams=("video",))
  assert clip.video.shape == (25, 96, 128, 3)
  np.testing.assert_array_equal(flash.flash_times(clip.video), [12 / 25])


def test_a_picture_alone_is_read_beside_another(tmp_path):
  """None of them is a film, so that the first one counts."""
  with av.open(str(tmp_path / "a.mkv"), "w") as container:
    for size in (48, 96):
      stream = container.add_stream("mjpeg", rate=25)
      stream.height, stream.width, stream.pix_fmt = size, size, "yuvj420p"
    for stream in container.streams:
      frame = av.VideoFrame.from_ndarray(flash.picture(), format="rgb24")
      frame = frame.reformat(stream.width, stream.height, "yuvj420p")
      frame.pts = 0
      container.mux([*stream.encode(frame), *stream.encode(None)])
  clip = media.read_clip(tmp_path / "a.mkv", streams=("video",))
  assert clip.video.shape == (1, 48, 48, 3)

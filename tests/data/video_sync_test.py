"""Frames are held until the next one, as players show them."""

from fractions import Fraction

import av
import numpy as np
import pytest

from ccl_jax.data import media, video_sync
from tests.data import flash


def write(path, times, is_lit, sound=None):
  """Writes frames at these times (ms) and sound; the last one lasts 40 ms."""
  with av.open(str(path), "w") as container:
    video = container.add_stream("libx264", rate=25)
    video.height, video.width, video.pix_fmt = 96, 128, "yuv420p"
    video.codec_context.time_base = Fraction(1, 1000)
    if sound is not None:
      audio = container.add_stream("aac", rate=48_000, layout="mono")
    for time, lit in zip(times, is_lit, strict=True):
      image = flash.picture(is_lit=lit)
      frame = av.VideoFrame.from_ndarray(image, format="rgb24")
      frame.pts, frame.time_base = time, Fraction(1, 1000)
      frame.duration = 40
      container.mux(video.encode(frame))
    container.mux(video.encode(None))
    if sound is not None:
      frame = av.AudioFrame.from_ndarray(sound[None], "fltp", "mono")
      frame.sample_rate, frame.pts = 48_000, 0
      container.mux([*audio.encode(frame), *audio.encode(None)])


def steady(fps):
  return [round(1000 * i / fps) for i in range(round(2.6 * fps))]


# Times of the frames, and of the flash and the beep, which last 160 ms.
KINDS = {
  "25 fps": (steady(25), 1.2),
  "10 fps": (steady(10), 1.2),
  "5 fps": (steady(5), 1.2),
  "23.98 fps": (steady(24000 / 1001), 1.21),
  "30 fps": (steady(30), 1.2),
  "50 fps": (steady(50), 1.2),
  "59.94 fps": (steady(60000 / 1001), 1.2),
  "120 fps": (steady(120), 1.2),
  "held": ([0, 40, 80, 120, *range(1600, 2600, 40)], 1.6),
  "slides": ([0, 1000, 2000, 2560], 1.0),
  "two rates": ([*range(0, 1000, 100), *range(1000, 2600, 20)], 1.4),
  "pause in the flash": ([*range(0, 1240, 40), *range(2000, 2600, 40)], 1.2),
  "jitter": ([40 * i + 7 * (i * i % 5) for i in range(64)], 1.2),
}


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fps", [25.0, 24.0, 30.0])
def test_flash_and_beep_stay_within_one_frame(tmp_path, kind, suffix, fps):
  times, start = KINDS[kind]
  is_lit = [start - 1e-3 <= t / 1000 < start + 0.16 for t in times]
  first = times[is_lit.index(True)] / 1000
  write(tmp_path / f"a.{suffix}", times, is_lit, flash.beeps(2.6, [first]))
  frames = int(2.4 * fps)
  clip = media.read_clip(tmp_path / f"a.{suffix}", fps=fps, frames=frames)
  (offset,) = flash.offsets(clip, fps)
  assert abs(offset) <= 1 / fps
  # The rule itself: never more than half a frame ahead.
  assert offset >= -0.5 / fps - 2e-3


def test_interlaced_video_has_no_combs(tmp_path):
  """A bar that moves between the fields of each frame."""
  y, x = 96, 128
  with av.open(str(tmp_path / "a.mp4"), "w") as container:
    stream = container.add_stream(
      "libx264", rate=25, options={"x264-params": "tff=1", "crf": "4"}
    )
    stream.height, stream.width, stream.pix_fmt = y, x, "yuv420p"
    for i in range(12):
      image = np.zeros((y, x, 3), np.uint8)
      for field in range(2):
        left = 8 * (2 * i + field) % (x - 32)
        image[field::2, left : left + 32] = 255
      frame = av.VideoFrame.from_ndarray(image, format="rgb24")
      frame = frame.reformat(format="yuv420p")
      frame.pts = i
      container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
  with av.open(str(tmp_path / "a.mp4")) as container:
    frame = next(container.decode(video=0))
    assert frame.interlaced_frame
    before = combing(frame.to_ndarray(format="rgb24"))
  video = media.read_clip(tmp_path / "a.mp4", streams=("video",)).video
  assert video.shape == (12, y, x, 3)
  assert max(combing(image) for image in video) < before / 8


def combing(image):
  """Returns how much rows differ from the mean of their neighbours."""
  rows = image.mean(-1)
  return np.abs(rows[1:-1] - (rows[:-2] + rows[2:]) / 2).mean()


def numbers_and_times(path):
  """Numbers of the frames of `write_numbers`, each with its time."""
  with av.open(str(path)) as container:
    frames = video_sync.decode(container, container.streams.video[0])
    return {
      round((frame.to_ndarray(format="rgb24").mean() - 10) / 4): frame.time
      for frame in frames
    }


def write_numbers(path, options):
  """Frame i is grey of level 10 + 4 i."""
  with av.open(str(path), "w") as container:
    stream = container.add_stream("libx264", rate=25, options=options)
    stream.height, stream.width, stream.pix_fmt = 96, 128, "yuv420p"
    for i in range(48):
      image = np.full((96, 128, 3), 10 + 4 * i, np.uint8)
      frame = av.VideoFrame.from_ndarray(image, format="rgb24")
      frame.pts = i
      container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


@pytest.mark.parametrize(
  "options",
  [{"bf": "0"}, {"bf": "2", "b-pyramid": "none"},
   {"bf": "3", "x264-params": "open-gop=1"}],
)  # fmt: skip
def test_an_avi_that_begins_without_a_key_frame_keeps_its_times(
  tmp_path, options
):
  """Where there are B-frames, the first picture alone may be early."""
  whole, cut = tmp_path / "a.avi", tmp_path / "b.avi"
  write_numbers(whole, {"g": "12", "sc_threshold": "0", **options})
  with av.open(str(whole)) as given, av.open(str(cut), "w") as made:
    stream = made.add_stream_from_template(given.streams.video[0])
    for packet in list(given.demux(video=0))[3:-1]:
      packet.stream = stream
      made.mux(packet)
  times = numbers_and_times(whole)
  found = numbers_and_times(cut)
  first = min(found)
  assert first >= 9 and len(found) == 48 - first
  errors = [times[i] - found[i] for i in sorted(found)]
  assert max(np.abs(errors[1:])) < 0.041
  assert errors[0] < (1e-6 if options["bf"] == "0" else 0.125)

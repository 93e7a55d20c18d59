"""Flash and beep of files of many kinds, after encode and --decode."""

import dataclasses
import shutil
from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np
import pytest

from ccl_jax.data import decoding, media
from ccl_jax.data.encode import dataset
from tests.data import flash

TIMES, SECONDS, RATE = (0.4, 0.9, 1.4), 2.2, 48_000
SETTINGS = dataset.EncodeSettings(
  size=(64, 64), frames=49, video_channels=10, audio_channels=8,
  need_caption=False, validation_fraction=0.0, num_workers=0,
)  # fmt: skip


class Kind(NamedTuple):
  """A file: how its pictures and its sound are stored.

  Attributes:
    frame_times: seconds of each picture; None is a regular rate.
    late: seconds by which its pictures and its sound begin later.
    options: of the container.
  """

  suffix: str
  fps: float | Fraction = 25
  video: str = "libx264"
  audio: str = "aac"
  frame_times: tuple[float, ...] | None = None
  late: tuple[float, float] = (0.0, 0.0)
  options: tuple[tuple[str, str], ...] = ()
  rate: int = RATE


HELD = tuple(
  t for t in np.arange(0, 2.2, 0.02).round(2)
  if any(abs(t - s) < 0.1 for s in (0, *TIMES, 2.1))
)  # fmt: skip
KINDS = {
  "24": Kind("mp4", 24),
  "30": Kind("mp4", 30),
  "60": Kind("mov", 60),
  "29.97": Kind("mkv", Fraction(30000, 1001)),
  "12": Kind("mp4", 12),
  "variable rate": Kind("mkv", frame_times=HELD),
  "variable rate in mp4": Kind("mp4", frame_times=HELD),
  "no edit list": Kind("mp4", 25, options=(("use_editlist", "0"),)),
  "fragments": Kind("mp4", options=(("movflags", "frag_keyframe+empty_moov"),)),
  "late sound": Kind("mkv", late=(0.0, 0.2)),
  "late pictures": Kind("mkv", late=(0.2, 0.0)),
  "late pictures in mp4": Kind("mp4", late=(0.2, 0.0)),
  "both late": Kind("mkv", late=(3.0, 3.0)),
  "mp3 in avi": Kind("avi", video="mpeg4", audio="mp3"),
  "B-frames in avi": Kind("avi", audio="pcm_s16le"),
  "ts": Kind("ts", 25, audio="mp2"),
  "ts from 10 h on": Kind("ts", late=(36_000.0, 36_000.0)),
  "ts over the turn of the clock": Kind("ts", late=(95_442.7, 95_442.7)),
  "webm": Kind("webm", 30, "libvpx", "libopus"),
  "flv": Kind("flv", 30, "flv1", "mp3", rate=44_100),
  "wmv": Kind("wmv", 30, "wmv2", "wmav2", rate=44_100),
  "mpg": Kind("mpg", 25, "mpeg2video", "mp2"),
  "B-frames in mpg": Kind("mpg", 30, "mpeg1video", "mp2"),
  "pcm in mov": Kind("mov", 24, "mjpeg", "pcm_s24le"),
  "flac in mkv": Kind("mkv", 50, "ffv1", "flac", rate=44_100),
}


def write(path, kind):
  """Writes flashes of 80 ms, each with its beep."""
  with av.open(str(path), "w", options=dict(kind.options)) as container:
    has_b_frames = kind.video.startswith(("libx264", "mpeg"))
    options = {"bf": "2"} if has_b_frames else {}
    film = container.add_stream(kind.video, rate=kind.fps, options=options)
    film.height, film.width = 64, 64
    film.pix_fmt = "yuvj420p" if kind.video == "mjpeg" else "yuv420p"
    film.bit_rate = 2_000_000
    unit = 1 / Fraction(kind.fps)
    if kind.frame_times:
      film.codec_context.time_base = unit = Fraction(1, 1000)
    sound = container.add_stream(kind.audio, rate=kind.rate, layout="mono")
    sound.bit_rate = 96_000
    packets = []
    times = kind.frame_times or np.arange(SECONDS * kind.fps) / float(kind.fps)
    shown = [round(t / unit) for t in times]
    for tick in shown:
      is_lit = any(0 <= tick * float(unit) - t + 0.01 < 0.08 for t in TIMES)
      image = flash.picture((64, 64), is_lit)
      frame = av.VideoFrame.from_ndarray(image, format="rgb24")
      frame.pts = tick + round(kind.late[0] / unit)
      frame.time_base = unit
      packets += film.encode(frame)
    packets += film.encode(None)
    wave = flash.beeps(SECONDS, TIMES, kind.rate)[None]
    frame = av.AudioFrame.from_ndarray(wave, "fltp", "mono")
    frame.sample_rate, frame.pts = kind.rate, round(kind.late[1] * kind.rate)
    resampler = av.AudioResampler(
      sound.format, "mono", kind.rate, frame_size=sound.frame_size or None
    )
    for each in [*resampler.resample(frame), *resampler.resample(None)]:
      packets += sound.encode(each)
    packets += sound.encode(None)
    container.mux(sorted(packets, key=lambda p: p.dts * p.time_base))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp("clips")
  for name, kind in KINDS.items():
    write(path / f"{name}.{kind.suffix}", kind)
  return path


def beep_times(audio):
  """Returns the middle of the sound's energy near each beep, less half."""
  starts = flash.beep_times(audio)
  starts = starts[np.diff(starts, prepend=-1) > 0.2]
  result = []
  for start in starts:
    first = max(round((start - 0.1) * 16_000), 0)
    near = np.square(audio[first : first + round(0.28 * 16_000)])
    result.append((first + near @ np.arange(len(near)) / near.sum()) / 16_000)
  return np.array(result) - 0.04


# Kinds that have frames at the times of the flashes.
OF_30 = ["60", "30", "webm", "flv", "wmv", "B-frames in mpg"]


@pytest.mark.parametrize(("fps", "kinds"), [(25.0, list(KINDS)), (60.0, OF_30)])
def test_flash_and_beep_stay_together(folder, tmp_path, fps, kinds):
  clips = tmp_path / "clips"
  clips.mkdir()
  for name in kinds:
    file = f"{name}.{KINDS[name].suffix}"
    shutil.copy(folder / file, clips / file)
  frames = 1 + 4 * int(1.9 * fps / 4)
  settings = dataclasses.replace(SETTINGS, fps=fps, frames=frames)
  summary = dataset.encode_dataset(clips, tmp_path / "data", settings)
  assert not summary.left_out
  names = decoding.decode_records(
    tmp_path / "data", tmp_path / "out", "train", len(kinds)
  )
  assert len(names) == len(kinds)
  wrong = {}
  for name in names:
    kind = KINDS[name.removesuffix(".mp4")]
    clip = media.read_clip(tmp_path / "out" / name, fps=fps)
    flashes, beeps = flash.flash_times(clip.video, fps), beep_times(clip.audio)
    # Times are those of the pictures.
    late = kind.late[1] - kind.late[0]
    expected = np.array(TIMES)
    seen = len(flashes) == 3 and np.abs(flashes - expected).max() < 1 / fps
    offsets = flashes[:, None] - (beeps - late)
    if not seen or np.abs(offsets).min(1).max() > 1 / fps:
      wrong[name] = flashes.round(3), beeps.round(3)
  assert not wrong

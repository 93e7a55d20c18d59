"""Several examples of a long clip, each with its time."""

import dataclasses
import json
from fractions import Fraction

import av
import numpy as np
import pytest

from ccl_jax.data import loader, media
from ccl_jax.data.encode import dataset, windows
from ccl_jax.data.encode.settings import EncodeSettings
from tests.data import clips

SETTINGS = EncodeSettings(
  fps=25.0, frames=5, size=clips.SIZE, video_channels=6, audio_channels=6,
  text_length=6, text_width=8, validation_fraction=0.0, num_workers=0,
  num_fit_clips=4,
)  # fmt: skip
LENGTH = 0.2


def settings(**changes):
  return dataclasses.replace(SETTINGS, **changes)


@pytest.mark.parametrize(
  ("seconds", "changes", "expected"),
  [
    (1.0, {}, [0, 0.2, 0.4, 0.6, 0.8]),
    (0.999, {}, [0, 0.2, 0.4, 0.6, 0.8]),
    (0.99, {}, [0, 0.2, 0.4, 0.6]),
    (0.19, {}, []),
    (0.0, {"window_rest": 0.1}, []),
    (1.0, {"window_stride": 0.35}, [0, 0.35, 0.7]),
    (0.5, {"window_stride": 0.1}, [0, 0.1, 0.2, 0.3]),
    (0.5, {"window_rest": 0.1}, [0, 0.2, 0.3]),
    (0.5, {"window_rest": 0.11}, [0, 0.2]),
    (0.4, {"window_rest": 0.05}, [0, 0.2]),
    (1.0, {"windows": 2}, [0, 0.4]),
    (1.0, {"windows": "3"}, [0, 0.2, 0.6]),
    (1.0, {"windows": 99}, [0, 0.2, 0.4, 0.6, 0.8]),
  ],
)
def test_windows_lie_in_the_clip(seconds, changes, expected):
  chosen = settings(**({"windows": "all"} | changes))
  assert windows.find_starts(seconds, LENGTH, chosen) == pytest.approx(expected)


@pytest.mark.parametrize(
  ("changes", "reason"),
  [
    ({"windows": "some"}, "encode.windows='some': expected 'first'"),
    ({"windows": 0}, "encode.windows=0"),
    ({"windows": -1}, "encode.windows=-1"),
    ({"windows": True}, "encode.windows=True"),
    ({"windows": "1.5"}, "encode.windows='1.5'"),
    ({"window_stride": -1.0}, "encode.window_stride=-1.0"),
    ({"window_stride": float("nan")}, "encode.window_stride=nan"),
    ({"window_rest": float("inf")}, "encode.window_rest=inf"),
  ],
)
def test_wrong_settings_are_one_error(changes, reason):
  with pytest.raises(ValueError) as caught:
    settings(**changes)
  assert reason in str(caught.value)


FRAMES = 60


@pytest.fixture(scope="module")
def long(tmp_path_factory):
  """2.4 s whose pictures and sound are numbered: brightness, and loudness."""
  values = np.arange(FRAMES)
  video = np.broadcast_to(
    (40 + 3 * values)[:, None, None, None], (FRAMES, *clips.SIZE, 3)
  ).astype(np.uint8)
  t = np.arange(FRAMES * 640) / 16_000
  audio = (0.9 * t / t[-1] * np.sin(2 * np.pi * 400 * t)).astype(np.float32)
  return tmp_path_factory.mktemp("long"), video, audio


def write(long, name):
  """The same clip in a container; returns its path."""
  folder, video, audio = long
  path = folder / name
  if path.exists():
    return path
  if name.endswith(".mp4"):
    media.write_mp4(path, video, 25.0, audio, crf=1)
    return path
  only_sound = not name.endswith((".mkv", ".webm", ".avi", ".ts", ".mov"))
  sounds = {".wav": "pcm_s16le", ".flac": "flac", ".mp3": "libmp3lame"}
  sounds |= {".ogg": "libopus", ".webm": "libopus"}
  sound = sounds.get(path.suffix, "aac")
  pictures = {".webm": "libvpx", ".avi": "mpeg4"}.get(path.suffix, "libx264")
  rate = 48_000 if sound == "libopus" else 16_000
  samples = np.interp(
    np.arange(FRAMES * rate // 25) / rate, np.arange(len(audio)) / 16_000, audio
  ).astype(np.float32)
  with av.open(str(path), "w") as container:
    if not only_sound:
      v = container.add_stream(pictures, rate=25, bit_rate=2_000_000)
      v.width, v.height, v.pix_fmt = *clips.SIZE[::-1], "yuv420p"
      v.gop_size = 17
    a = container.add_stream(sound, rate=rate, layout="mono")
    if not only_sound:
      for i, image in enumerate(video):
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts, frame.time_base = i, Fraction(1, 25)
        container.mux(v.encode(frame))
      container.mux(v.encode(None))
    frame = av.AudioFrame.from_ndarray(
      samples[None], format="fltp", layout="mono"
    )
    frame.sample_rate, frame.pts = rate, 0
    resampler = av.AudioResampler(a.format, "mono", rate, a.frame_size or None)
    for each in [*resampler.resample(frame), *resampler.resample(None)]:
      container.mux(a.encode(each))
    container.mux(a.encode(None))
  return path


@pytest.mark.parametrize(
  "name",
  ["a.mp4", "a.mkv", "a.webm", "a.avi", "a.ts", "a.mov",
   "a.wav", "a.flac", "a.mp3", "a.ogg", "a.m4a"],
)  # fmt: skip
@pytest.mark.parametrize("start", [0.04, 0.8, 1.32, 2.0])
def test_a_window_is_the_same_part_of_the_whole_clip(long, name, start):
  """In every container, at and between key frames, up to the end."""
  path = write(long, name)
  read = dict(need_video=False, need_audio=True)
  whole = media.read_clip(path, **read)
  part = media.read_clip(path, start=start, frames=10, **read)
  first, samples = round(start * 25), round(start * 16_000)
  if whole.video is not None:
    np.testing.assert_array_equal(part.video, whole.video[first : first + 10])
  assert len(part.audio) == 6400
  rest = media.read_clip(path, start=start, **read)
  if whole.video is not None:
    np.testing.assert_array_equal(rest.video, whole.video[first:])
  # An mp3 or m4a may decode to more than its header says.
  assert len(rest.audio) == pytest.approx(len(whole.audio) - samples, abs=32)
  # Time stamps of some containers are of a millisecond, and decoders of lossy
  # sound start anew.
  expected = np.pad(whole.audio, (16, 1600))[samples : samples + 6232]
  errors = [
    np.sqrt(np.mean((part.audio[:6200] - expected[lag : lag + 6200]) ** 2))
    for lag in range(33)
  ]
  assert min(errors) < 0.02 * max(start, 0.2)
  if not name.endswith((".mkv", ".webm")):
    assert np.argmin(errors) == 16


def test_a_window_beyond_the_end_is_an_error(long):
  for name in ("a.mp4", "a.wav"):
    for start in (2.3, 60.0):
      with pytest.raises(media.ClipError, match="too short"):
        media.read_clip(
          write(long, name), start=start, frames=10, need_video=False
        )


def folder_of(tmp_path, *rows):
  folder = tmp_path / "clips"
  folder.mkdir()
  for i, frames in enumerate((25, 13, 5)):
    video, audio = clips.clip(i, frames=frames)
    media.write_mp4(folder / f"{i}.mp4", video, 25.0, audio)
  (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
  return folder


ROWS = [{"file": f"{i}.mp4", "text": f"Disc {i}."} for i in range(3)]


def test_all_windows_become_examples_with_their_times(tmp_path):
  folder = folder_of(tmp_path, *ROWS)
  chosen = settings(windows="all")
  summary = dataset.encode_dataset(folder, tmp_path / "data", chosen)
  assert summary.encoded == {"train": 8} and not summary.left_out
  read = loader.read_clips(tmp_path / "data", "train")
  times = ("0,0.2", "0.2,0.4", "0.4,0.6", "0.6,0.8", "0.8,1")
  assert read["name"] == [
    f"{name}#t={time}"
    for name, number in (("0.mp4", 5), ("1.mp4", 2), ("2.mp4", 1))
    for time in times[:number]
  ]
  assert read["caption"][:6] == ["Disc 0."] * 5 + ["Disc 1."]
  assert np.abs(read["video"][0] - read["video"][4]).max() > 0.1


def test_first_windows_are_what_they_were(tmp_path):
  folder = folder_of(tmp_path, *ROWS)
  dataset.encode_dataset(folder, tmp_path / "data", SETTINGS)
  read = loader.read_clips(tmp_path / "data", "train")
  assert read["name"] == ["0.mp4", "1.mp4", "2.mp4"]


def test_windows_of_a_segment_have_its_caption(tmp_path):
  folder = folder_of(
    tmp_path,
    {"file": "0.mp4", "start": 0.52, "text": "Later."},
    {"file": "0.mp4", "end": 0.44, "text": "Early.", "split": "train"},
    {"file": "0.mp4", "start": 0.44, "end": 0.52, "text": "Short."},
    {"file": "1.mp4", "start": "0.1", "end": 9, "text": "End."},
    {"file": "2.mp4", "text": "Whole."},
  )
  summary = dataset.encode_dataset(
    folder, tmp_path / "data", settings(windows="all")
  )
  read = loader.read_clips(tmp_path / "data", "train")
  assert list(zip(read["name"], read["caption"], strict=True)) == [
    ("0.mp4#t=0,0.2", "Early."),
    ("0.mp4#t=0.2,0.4", "Early."),
    ("0.mp4#t=0.52,0.72", "Later."),
    ("0.mp4#t=0.72,0.92", "Later."),
    ("1.mp4#t=0.1,0.3", "End."),
    ("1.mp4#t=0.3,0.5", "End."),
    ("2.mp4#t=0,0.2", "Whole."),
  ]
  assert summary.left_out == {
    "0.mp4#t=0.44,0.52": "segment is too short: 0.08 s of 0.20 s needed"
  }
  first = dataset.encode_dataset(folder, tmp_path / "first", SETTINGS)
  assert first.encoded == {"train": 4}


def test_segments_of_a_file_are_in_one_split(tmp_path):
  rows = [
    {"file": f"{i}.mp4", "start": start, "end": start + 0.2, "text": "A."}
    for i in range(3)
    for start in ((0.0, 0.2, 0.4) if i == 0 else (0.0,))
  ]
  folder = folder_of(tmp_path, *rows)
  chosen = settings(validation_fraction=0.3)
  dataset.encode_dataset(folder, tmp_path / "data", chosen)
  names = {
    split: {
      x.split("#")[0]
      for x in loader.read_clips(tmp_path / "data", split)["name"]
    }
    for split in ("train", "validation")
  }
  assert not names["train"] & names["validation"]
  assert len(names["train"] | names["validation"]) == 3


def test_a_clip_whose_length_is_not_known_or_too_short_is_left_out(tmp_path):
  folder = folder_of(tmp_path, *ROWS)
  (folder / "1.mp4").write_bytes(b"nothing")
  media.write_mp4(
    folder / "2.mp4", clips.clip(0, 3).video, 25.0, clips.clip(0, 3).audio
  )
  summary = dataset.encode_dataset(
    folder, tmp_path / "data", settings(windows="all", num_fit_clips=9)
  )
  assert summary.encoded == {"train": 5} and len(summary.left_out) == 2

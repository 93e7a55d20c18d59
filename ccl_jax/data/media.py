"""Clips with sound: reading at one frame rate, size and sample rate; writing.

One clock for both streams. Time zero is the first video frame (the first sound
sample where there is no picture). Output frame k is the source frame whose
timestamp is nearest to k / fps; a sound sample with timestamp t lands at index
round(t * sample_rate), whatever the streams' start offsets are, and silence
fills what the file leaves out.
"""

import os
import wave
from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from jaxtyping import Float, UInt8

from ccl_jax.files import replacing

Path = str | os.PathLike

# Encoders end sound a little before or after the picture; up to this many
# seconds of missing tail are silence and not an error.
_TAIL = 0.1
# Timestamps that jitter less than this (seconds) continue the same recording:
# containers round them to milliseconds.
_JITTER = 0.005
_IMAGES = ("image2", "png_pipe", "jpeg_pipe", "webp_pipe", "bmp_pipe")


class ClipError(ValueError):
  """A file that cannot be used, and why."""


class Clip(NamedTuple):
  """Decoded media; a stream that the file does not have is None."""

  video: UInt8[np.ndarray, "t y x 3"] | None
  audio: Float[np.ndarray, "s"] | None


def read_clip(
  path: Path,
  *,
  fps: float = 25.0,
  size: tuple[int, int] | None = None,
  frames: int | None = None,
  sample_rate: int = 16_000,
  need_video: bool = True,
  need_audio: bool = True,
) -> Clip:
  """The first `frames` frames of a file (all if None) and their sound.

  Args:
    path: anything FFmpeg decodes: mp4, webm, mov, wav, flac, mp3...
    fps: frame rate of the result.
    size: (y, x) in pixels; pictures are scaled to cover it and cropped at the
      centre. None keeps the source's size.
    frames: how many; the sound has round(frames / fps * sample_rate) samples.
    sample_rate: of the result, mono, in [-1, 1].
    need_video: whether a file without pictures is an error.
    need_audio: whether a file without sound is an error.

  Raises:
    ClipError: unreadable, damaged, shorter than needed, or lacks a stream.
  """
  try:
    with av.open(os.fspath(path), metadata_errors="ignore") as container:
      video = _stream(container, "video", need_video)
      audio = _stream(container, "audio", need_audio)
      if video is None and audio is None:
        raise ClipError("has neither pictures nor sound")
      pictures = video and _Pictures(video, fps, size, frames)
      seconds = None if frames is None else frames / fps
      sound = audio and _Sound(audio, sample_rate, seconds)
      _decode(container, pictures, sound)
      return _assemble(pictures, sound, fps, sample_rate)
  except (av.FFmpegError, OSError, ClipError) as error:
    reason = getattr(error, "strerror", None) or error
    raise ClipError(f"{os.fspath(path)}: {reason}") from error


def read_image(
  path: Path, size: tuple[int, int] | None = None
) -> UInt8[np.ndarray, "y x 3"]:
  """A png, jpeg, webp or bmp as RGB, scaled to cover `size` and cropped.

  Raises:
    ClipError: unreadable, or not one of these kinds.
  """
  try:
    with av.open(os.fspath(path), metadata_errors="ignore") as container:
      if container.format.name not in _IMAGES:
        raise ClipError(
          f"is {container.format.long_name}, not an image"
          " (png, jpeg, webp or bmp expected)"
        )
      frame = next(container.decode(video=0), None)
      if frame is None:
        raise ClipError("holds no picture")
      return _fit(frame, size, VideoReformatter())
  except (av.FFmpegError, OSError, ClipError) as error:
    reason = getattr(error, "strerror", None) or error
    raise ClipError(f"{os.fspath(path)}: {reason}") from error


def write_mp4(
  path: Path,
  video: UInt8[np.ndarray, "t y x 3"],
  fps: float,
  audio: Float[np.ndarray, "s"] | None = None,
  sample_rate: int = 16_000,
  *,
  crf: int = 18,
) -> None:
  """H.264 (yuv420p) and AAC; odd sizes gain an edge row or column.

  `crf` is x264's quality: 0 is lossless, 18 looks it, 23 is small.

  Raises:
    ValueError: no frames, or a frame rate that is not positive.
  """
  if not len(video) or fps <= 0:
    raise ValueError(
      f"{video.shape=}, {fps=}: expected some frames and a rate."
    )
  odd_y, odd_x = video.shape[1] % 2, video.shape[2] % 2
  video = np.pad(video, ((0, 0), (0, odd_y), (0, odd_x), (0, 0)), mode="edge")
  rate = Fraction(fps).limit_denominator(1001)
  with (
    replacing(path) as partial,
    av.open(str(partial), "w", format="mp4") as container,
  ):
    pictures = container.add_stream(
      "libx264", rate=rate, options={"crf": str(crf), "preset": "veryfast"}
    )
    pictures.height, pictures.width = video.shape[1:3]
    pictures.pix_fmt = "yuv420p"
    if audio is not None:
      sound = container.add_stream("aac", rate=sample_rate, layout="mono")
      sound.bit_rate = 96_000
    for index, image in enumerate(video):
      frame = av.VideoFrame.from_ndarray(image, format="rgb24")
      frame.pts, frame.time_base = index, 1 / rate
      container.mux(pictures.encode(frame))
    container.mux(pictures.encode(None))
    if audio is not None:
      wave = np.clip(audio, -1, 1).astype(np.float32)[None]
      frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
      frame.sample_rate, frame.pts = sample_rate, 0
      container.mux(sound.encode(frame))
      container.mux(sound.encode(None))


def write_wav(
  path: Path, audio: Float[np.ndarray, "s"], sample_rate: int = 16_000
) -> None:
  """16-bit mono PCM."""
  samples = np.round(np.clip(audio, -1, 1) * 32767).astype("<i2")
  with replacing(path) as partial, wave.open(str(partial), "wb") as file:
    file.setnchannels(1)
    file.setsampwidth(2)
    file.setframerate(sample_rate)
    file.writeframes(samples.tobytes())


def _stream(container, kind: str, needed: bool):
  """The first stream of a kind; cover pictures in music files do not count."""
  for stream in getattr(container.streams, kind):
    if not stream.disposition & av.stream.Disposition.attached_pic:
      return stream
  if needed:
    raise ClipError(f"has no {kind} stream")
  return None


def _decode(container, pictures, sound) -> None:
  """Feeds decoded frames to the collectors until both have enough."""
  collectors = [c for c in (pictures, sound) if c]
  for frame in container.decode(*[c.stream for c in collectors]):
    if frame.time is None:
      raise ClipError("has frames without timestamps")
    if frame.is_corrupt:
      raise ClipError(f"is damaged at {frame.time:.2f} s")
    collector = pictures if isinstance(frame, av.VideoFrame) else sound
    collector.add(frame)
    if all(c.is_full(collectors[0].start) for c in collectors):
      return


def _assemble(pictures, sound, fps: float, sample_rate: int) -> Clip:
  video = pictures and pictures.finish()
  if not sound:
    return Clip(video, None)
  start, samples = sound.start, None
  if pictures:
    start = pictures.start
    samples = round(len(video) / fps * sample_rate)
  return Clip(video, sound.finish(start, samples))


class _Pictures:
  """Chooses, among frames given in order, the nearest to each k / fps."""

  def __init__(self, stream, fps, size, frames):
    self.stream, self._fps, self._size, self._frames = stream, fps, size, frames
    self.start = None
    self._reformatter = VideoReformatter()
    self._last = None
    self._chosen = []

  def add(self, frame) -> None:
    if self.start is None:
      self.start = frame.time
    else:
      self._choose(until=(self._last.time + frame.time) / 2)
    self._last = frame

  def is_full(self, start) -> bool:
    return len(self._chosen) == self._frames

  def finish(self) -> UInt8[np.ndarray, "t y x 3"]:
    if self._last is None:
      raise ClipError("has no decodable picture")
    if not self.is_full(self.start):
      end = self._last.time + self._duration()
      self._choose(until=end)
      _check_length("video", self.stream, end - self.start, self._needed())
    return np.stack(self._chosen)

  def _needed(self):
    """Seconds; half a frame less, since frame k stands for a moment."""
    return self._frames and (self._frames - 0.5) / self._fps

  def _choose(self, until: float) -> None:
    """The last frame serves every output time before `until`."""
    image = None
    # A microsecond decides ties the same way on every time base.
    while self.start + len(
      self._chosen
    ) / self._fps < until - 1e-6 and not self.is_full(self.start):
      if image is None:
        image = _fit(self._last, self._size, self._reformatter)
      self._chosen.append(image)

  def _duration(self) -> float:
    frame = self._last
    if frame.duration:
      return float(frame.duration * frame.time_base)
    return 1 / float(self.stream.average_rate or self._fps)


class _Sound:
  """Collects mono samples with their times, then lays them on the clock."""

  def __init__(self, stream, sample_rate, seconds):
    self.stream, self._rate, self._seconds = stream, sample_rate, seconds
    self.start = None
    self._end = None
    self._resampler = av.AudioResampler("flt", "mono", sample_rate)
    self._pieces = []

  def add(self, frame) -> None:
    if self.start is None:
      self.start = frame.time
    self._end = frame.time + frame.samples / frame.sample_rate
    self._collect(self._resampler.resample(frame))

  def is_full(self, start) -> bool:
    known = None not in (self._seconds, start, self._end)
    # Beyond the end by more than the resampler can hold back.
    return known and self._end > start + self._seconds + _TAIL

  def finish(self, start: float, samples: int | None) -> Float[np.ndarray, "s"]:
    """`samples` samples from time `start` on; None: the whole recording."""
    if self._end is None:
      raise ClipError("has no decodable sound")
    self._collect(self._resampler.resample(None))
    if samples is None:
      seconds = self._seconds or self._end - start
      samples = round(seconds * self._rate)
    _check_length(
      "audio", self.stream, self._end - start, samples / self._rate - _TAIL
    )
    return self._place(start, samples)

  def _collect(self, frames) -> None:
    for frame in frames:
      self._pieces.append((float(frame.time), frame.to_ndarray().ravel()))

  def _place(self, start, samples) -> Float[np.ndarray, "s"]:
    result = np.zeros(samples, np.float32)
    cursor = None
    for time, piece in self._pieces:
      begin = round((time - start) * self._rate)
      if cursor is None or abs(begin - cursor) > _JITTER * self._rate:
        cursor = begin
      inside = slice(max(cursor, 0), max(cursor + len(piece), 0))
      skipped = max(-cursor, 0)
      target = result[inside]
      target[:] = piece[skipped : skipped + len(target)]
      cursor += len(piece)
    return result


def _check_length(kind, stream, seconds, needed: float | None) -> None:
  """Raises ClipError if a stream ended early; None needs what it declares."""
  if needed is None:
    declared = stream.duration and float(stream.duration * stream.time_base)
    needed = (declared or 0) - _TAIL
  if seconds < needed:
    raise ClipError(
      f"{kind} is too short: {seconds:.2f} s of {needed:.2f} s needed"
      " (a shorter clip, or a truncated file)"
    )


def _fit(
  frame, size: tuple[int, int] | None, reformatter: VideoReformatter
) -> UInt8[np.ndarray, "y x 3"]:
  """RGB, upright, scaled to cover `size` and cropped at the centre."""
  quarter_turns = round(frame.rotation / 90)
  y, x = size or (frame.height, frame.width)
  if size and quarter_turns % 2:
    y, x = x, y
  scale = max(y / frame.height, x / frame.width)
  image = reformatter.reformat(
    frame,
    width=max(x, round(frame.width * scale)),
    height=max(y, round(frame.height * scale)),
    format="rgb24",
    interpolation="AREA" if scale < 1 else "BICUBIC",
  ).to_ndarray()
  top, left = (image.shape[0] - y) // 2, (image.shape[1] - x) // 2
  image = image[top : top + y, left : left + x]
  return np.ascontiguousarray(np.rot90(image, quarter_turns))

"""Decoded frames, in the order of their timestamps, resampled on one clock.

`FrameResampler` chooses the frame nearest to each k / fps. `AudioResampler`
puts a sample with timestamp t at index round((t - start) * rate); where the
file has no sample there is silence. Both take PyAV frames.
"""

import math

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from jaxtyping import Float, UInt8

# Encoders end sound a little before or after the video: a missing tail of up to
# this many seconds is filled with silence and is no error.
MAX_MISSING_TAIL = 0.1
# Timestamps that jitter less than this (seconds) continue the same recording:
# containers round them to milliseconds.
_MAX_JITTER = 0.005


class ClipError(ValueError):
  """A file that cannot be used; the message says why."""


class FrameResampler:
  """Video on the clock: frame k is the input frame nearest start + k / fps."""

  def __init__(
    self,
    stream: av.VideoStream,
    fps: float,
    size: tuple[int, int] | None,
    frames: int | None,
  ):
    self.stream, self._fps, self._size, self._frames = stream, fps, size, frames
    self.start: float | None = None
    self._reformatter = VideoReformatter()
    self._last = None
    self._chosen: list[np.ndarray] = []

  @property
  def is_full(self) -> bool:
    return len(self._chosen) == self._frames

  def add(self, frame: av.VideoFrame) -> None:
    """Takes the next input frame."""
    if self._last is None:
      self.start = frame.time
    else:
      # The last frame is nearest until halfway to this one.
      self._repeat_last(until=(self._last.time + frame.time) / 2)
    self._last = frame

  def finish(self) -> UInt8[np.ndarray, "t y x 3"]:
    """Returns the frames; ClipError if the input ends too early."""
    if self._last is None:
      raise ClipError("has no decodable picture")
    if not self.is_full:
      end = self._last.time + self._last_duration()
      self._repeat_last(until=end)
      if self._frames is None:
        needed = declared_seconds(self.stream) - MAX_MISSING_TAIL
        check_length("video", end - self.start, needed)
      elif not self.is_full:
        check_length("video", end - self.start, self._frames / self._fps)
    return np.stack(self._chosen)

  def _repeat_last(self, until: float) -> None:
    """Chooses the last frame for every output time before `until`."""
    image = None
    while not self.is_full:
      time = self.start + len(self._chosen) / self._fps
      # A microsecond decides ties the same way for every time base.
      if time >= until - 1e-6:
        return
      if image is None:
        image = resize_and_crop(self._last, self._size, self._reformatter)
      self._chosen.append(image)

  def _last_duration(self) -> float:
    if self._last.duration:
      return float(self._last.duration * self._last.time_base)
    return 1 / float(self.stream.average_rate or self._fps)


class AudioResampler:
  """Sound on the clock: the mean over the channels, at one sample rate."""

  def __init__(self, stream: av.AudioStream, sample_rate: int):
    self.stream, self._rate = stream, sample_rate
    self.start: float | None = None
    self.end = -math.inf
    self._resampler = av.AudioResampler("fltp", rate=sample_rate)
    # Pieces of sound, each with the time of its first sample.
    self._pieces: list[tuple[float, np.ndarray]] = []

  def add(self, frame: av.AudioFrame) -> None:
    """Takes the next input frame."""
    if self.start is None:
      self.start = frame.time
    self.end = frame.time + frame.samples / frame.sample_rate
    self._resample(frame)

  def finish(
    self, start: float | None, seconds: float | None
  ) -> Float[np.ndarray, " s"]:
    """Returns `seconds` of sound from the time `start` on.

    start: None is the sound's own start.
    seconds: None is all.

    Raises:
      ClipError: the sound ends more than `MAX_MISSING_TAIL` too early.
    """
    if self.start is None:
      raise ClipError("has no decodable sound")
    self._resample(None)
    start = self.start if start is None else start
    length = self.end - start
    needed = declared_seconds(self.stream) if seconds is None else seconds
    check_length("audio", length, needed - MAX_MISSING_TAIL)
    return self._join(start, length if seconds is None else seconds)

  def _resample(self, frame: av.AudioFrame | None) -> None:
    """Resamples a frame; None flushes the resampler."""
    for piece in self._resampler.resample(frame):
      # Not FFmpeg's downmix: it makes what the channels share louder.
      self._pieces.append((float(piece.time), piece.to_ndarray().mean(0)))

  def _join(self, start: float, seconds: float) -> Float[np.ndarray, " s"]:
    """Copies every piece to the index of its time; the rest is silence."""
    result = np.zeros(round(seconds * self._rate), np.float32)
    index = None
    for time, piece in self._pieces:
      by_time = round((time - start) * self._rate)
      # Continue right after the previous piece, unless the file has a real gap.
      if index is None or abs(by_time - index) > _MAX_JITTER * self._rate:
        index = by_time
      num_before_start = max(-index, 0)
      target = result[max(index, 0) : max(index + len(piece), 0)]
      target[:] = piece[num_before_start : num_before_start + len(target)]
      index += len(piece)
    return result


def resize_and_crop(
  frame: av.VideoFrame,
  size: tuple[int, int] | None,
  reformatter: VideoReformatter,
) -> UInt8[np.ndarray, "y x 3"]:
  """Returns RGB, upright, scaled to cover `size` and cropped at the centre."""
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


def declared_seconds(stream: av.VideoStream | av.AudioStream) -> float:
  """Returns the duration in the file's header; 0 if it has none."""
  return float((stream.duration or 0) * stream.time_base)


def check_length(kind: str, seconds: float, needed: float) -> None:
  """Raises ClipError if a stream ends too early."""
  if seconds < needed:
    raise ClipError(
      f"{kind} is too short: {seconds:.2f} s of {needed:.2f} s needed"
      " (a shorter clip, or a truncated file)"
    )

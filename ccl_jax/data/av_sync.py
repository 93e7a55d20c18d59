"""Decoded frames, in the order of their timestamps, laid on one clock.

`FrameResampler` chooses the frame nearest to each k / fps; `AudioResampler` puts a sample with
timestamp t at index round((t - start) * rate) and leaves silence where there is
none. Both take PyAV frames.
"""

import math

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from jaxtyping import Float, UInt8

# Encoders end sound a little before or after the picture: up to this many
# seconds of missing tail are silence and not an error.
TAIL = 0.1
# Timestamps that jitter less than this (seconds) continue the same recording:
# containers round them to milliseconds.
_JITTER = 0.005


class ClipError(ValueError):
  """A file that cannot be used, and why."""


class FrameResampler:
  """Frame k of the result is the given frame nearest to `start` + k / fps."""

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
    if self._last is None:
      self.start = frame.time
    else:
      self._choose(until=(self._last.time + frame.time) / 2)
    self._last = frame

  def finish(self) -> UInt8[np.ndarray, "t y x 3"]:
    """The result; ClipError if the last frame ends before it does."""
    if self._last is None:
      raise ClipError("has no decodable picture")
    if not self.is_full:
      end = self._last.time + self._last_duration()
      self._choose(until=end)
      if self._frames is None:
        check_length("video", end - self.start, declared(self.stream) - TAIL)
      elif not self.is_full:
        check_length("video", end - self.start, self._frames / self._fps)
    return np.stack(self._chosen)

  def _choose(self, until: float) -> None:
    """The last frame serves every time of the result before `until`."""
    image = None
    while not self.is_full:
      time = self.start + len(self._chosen) / self._fps
      # A microsecond decides ties the same way whatever the time base.
      if time >= until - 1e-6:
        return
      if image is None:
        image = fit(self._last, self._size, self._reformatter)
      self._chosen.append(image)

  def _last_duration(self) -> float:
    if self._last.duration:
      return float(self._last.duration * self._last.time_base)
    return 1 / float(self.stream.average_rate or self._fps)


class AudioResampler:
  """Collects samples, the mean over the channels, with their times."""

  def __init__(self, stream: av.AudioStream, sample_rate: int):
    self.stream, self._rate = stream, sample_rate
    self.start: float | None = None
    self.end = -math.inf
    self._resampler = av.AudioResampler("fltp", rate=sample_rate)
    self._pieces: list[tuple[float, np.ndarray]] = []

  def add(self, frame: av.AudioFrame) -> None:
    if self.start is None:
      self.start = frame.time
    self.end = frame.time + frame.samples / frame.sample_rate
    self._collect(frame)

  def finish(
    self, start: float | None, seconds: float | None
  ) -> Float[np.ndarray, " s"]:
    """Sound from the time `start` on (None: its own), all if no `seconds`.

    Raises:
      ClipError: the sound ends more than 0.1 s before.
    """
    if self.start is None:
      raise ClipError("has no decodable sound")
    self._collect(None)
    start = self.start if start is None else start
    length = self.end - start
    wanted = declared(self.stream) if seconds is None else seconds
    check_length("audio", length, wanted - TAIL)
    return self._place(start, length if seconds is None else seconds)

  def _collect(self, frame: av.AudioFrame | None) -> None:
    for piece in self._resampler.resample(frame):
      # Not FFmpeg's own way, which makes what both sides have louder.
      self._pieces.append((float(piece.time), piece.to_ndarray().mean(0)))

  def _place(self, start: float, seconds: float) -> Float[np.ndarray, " s"]:
    result = np.zeros(round(seconds * self._rate), np.float32)
    cursor = None
    for time, piece in self._pieces:
      begin = round((time - start) * self._rate)
      if cursor is None or abs(begin - cursor) > _JITTER * self._rate:
        cursor = begin
      early = max(-cursor, 0)
      target = result[max(cursor, 0) : max(cursor + len(piece), 0)]
      target[:] = piece[early : early + len(target)]
      cursor += len(piece)
    return result


def fit(
  frame: av.VideoFrame,
  size: tuple[int, int] | None,
  reformatter: VideoReformatter,
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


def declared(stream: av.VideoStream | av.AudioStream) -> float:
  """Seconds that the file says a stream has; 0 if it does not say."""
  return float((stream.duration or 0) * stream.time_base)


def check_length(kind: str, seconds: float, needed: float) -> None:
  """Raises ClipError if a stream ends too early."""
  if seconds < needed:
    raise ClipError(
      f"{kind} is too short: {seconds:.2f} s of {needed:.2f} s needed"
      " (a shorter clip, or a truncated file)"
    )

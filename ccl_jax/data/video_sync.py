"""Decoded frames, in the order of their time stamps, at one frame rate.

Frames are held, as in players: output frame k is the last input frame whose
time is at most start + k / fps plus half an output frame.
"""

import collections
import contextlib
from collections.abc import Iterator

import av
import numpy as np
from av.codec.context import Flags
from av.filter import Graph
from av.video.frame import PictureType
from jaxtyping import UInt8

from ccl_jax.data.audio_sync import (
  MAX_MISSING_TAIL,
  check_length,
  stated_seconds,
)
from ccl_jax.data.opening import ClipError
from ccl_jax.data.pictures import RgbConverter


class FrameResampler:
  """Video on the clock: frame k is what is shown at start + k / fps."""

  def __init__(
    self,
    stream: av.VideoStream,
    fps: float,
    size: tuple[int, int] | None,
    frames: int | None,
  ):
    self.stream, self._fps, self._frames = stream, fps, frames
    self.start: float | None = None
    self.passed_over = 0.0  # seconds of the stream before `start`
    self._deinterlacer = Deinterlacer()
    pixel_aspect = float(stream.sample_aspect_ratio or 1)
    self._to_rgb = RgbConverter(size, pixel_aspect)
    self._last = None
    self._chosen: list[np.ndarray] = []

  @property
  def is_full(self) -> bool:
    return len(self._chosen) == self._frames

  def add(self, frame: av.VideoFrame | None) -> None:
    """Takes the next input frame, or None at the end."""
    for each in self._deinterlacer(frame):
      if self.start is None:
        self.start = each.time
      if self._last is not None:
        # Just half a frame ahead is too far, so that every second frame of
        # twice the rate is the one of the same time.
        self._repeat_last(until=each.time - 0.5 / self._fps + 2e-6)
      self._last = each

  def finish(self) -> UInt8[np.ndarray, "t y x 3"]:
    """Returns the frames; ClipError if the input ends too early."""
    self.add(None)
    if self._last is None:
      raise ClipError("has no decodable picture")
    if not self.is_full:
      rate = float(self.stream.average_rate or self._fps)
      end = self._last.time + (stated_seconds(self._last) or 1 / rate)
      self._repeat_last(until=end)
      if self._frames is None:
        needed = stated_seconds(self.stream) - self.passed_over
        check_length("video", end - self.start, needed - MAX_MISSING_TAIL)
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
        image = self._to_rgb(self._last)
      self._chosen.append(image)


class PacketDecoder:
  """Decodes packets to frames with their times.

  AVI has decoding times only, and FFmpeg's guesses for B-frames are out of
  order: frames, which come in display order, get these times in turn. The times
  of packets before the first key frame, which give no frame, are left out.
  """

  def __init__(self, container: av.container.InputContainer):
    self._is_avi = container.format.name == "avi"
    self._times = collections.deque()

  def __call__(self, packet: av.Packet) -> list[av.VideoFrame | av.AudioFrame]:
    """Returns the frames that a packet, or the end, completes."""
    if not self._is_avi or packet.stream.type != "video":
      return packet.decode()
    packet.stream.codec_context.flags |= Flags.copy_opaque
    packet.opaque = packet.dts
    if packet.dts is not None:
      self._times.append(packet.dts)
    frames = packet.decode()
    for frame in frames:
      self._leave_out(frame, packet.stream.codec.name)
      if self._times:
        frame.pts = self._times.popleft()
    return frames

  def _leave_out(self, frame: av.VideoFrame, codec: str) -> None:
    """Drops times that are too early for a frame: their packets gave none.

    A picture is shown when it is decoded or later, but for B-frames: as many
    places earlier as there are levels of them, of which MPEG-4 has one.
    """
    places = 0
    if frame.pict_type == PictureType.B:
      places = 1 if "mpeg" in codec else 2
    while len(self._times) > places and frame.opaque is not None:
      if self._times[places] >= frame.opaque:
        return
      self._times.popleft()


def decode(
  container: av.container.InputContainer, stream: av.stream.Stream
) -> Iterator[av.VideoFrame | av.AudioFrame]:
  """Yields the frames of one stream with their times."""
  decode_packet = PacketDecoder(container)
  for packet in container.demux(stream):
    yield from decode_packet(packet)


class Deinterlacer:
  """FFmpeg's bwdif from the first interlaced frame on; it holds one back."""

  def __init__(self):
    self._graph, self._format = None, None

  def __call__(self, frame: av.VideoFrame | None) -> Iterator[av.VideoFrame]:
    """Yields the frames that are ready; None flushes."""
    form = frame and (frame.format.name, frame.width, frame.height)
    if form != self._format and self._graph is not None:
      yield from self._push(None)
      self._graph = None
    self._format = form
    if frame is None:
      return
    if frame.interlaced_frame and self._graph is None:
      self._graph = _make_graph(frame)
    yield from (frame,) if self._graph is None else self._push(frame)

  def _push(self, frame: av.VideoFrame | None) -> Iterator[av.VideoFrame]:
    self._graph.push(frame)
    with contextlib.suppress(av.error.BlockingIOError, av.error.EOFError):
      while True:
        yield self._graph.pull()


def _make_graph(frame: av.VideoFrame) -> Graph:
  graph = Graph()
  source = graph.add_buffer(
    width=frame.width,
    height=frame.height,
    format=frame.format,
    time_base=frame.time_base,
  )
  bwdif = graph.add("bwdif", "mode=send_frame:deint=interlaced")
  graph.link_nodes(source, bwdif, graph.add("buffersink")).configure()
  return graph

"""Streams of a result that leave as the user's file had them."""

from collections.abc import Iterator

import av
import numpy as np

from ccl_jax.data.opening import ClipError, Path, find_stream, open_media
from ccl_jax.files import replacing

# What players of mp4 files decode.
_COPIED = {
  "video": ("h264", "hevc", "av1", "vp9", "mpeg4"),
  "audio": ("aac", "mp3", "mp3float", "flac", "alac", "opus", "ac3", "eac3"),
}
_MARGIN = 0.02  # Seconds that a stream may be longer, without a cut.


def restore_stream(path: Path, kind: str, source: Path, seconds: float) -> None:
  """Replaces a stream of an mp4 file by that of the file it was read from.

  Pictures are copied, with their size and rate, if they need no cut; else the
  file stays as it is. Sound is copied up to the packet that ends it; in formats
  that mp4 has not, such as PCM, it becomes FLAC of its own rate and channels.

  Args:
    path: an mp4 file.
    kind: "video" or "audio".
    source: any file that `media.read_clip` reads.
    seconds: length of the clip.
  """
  start = _start(source, kind)
  with open_media(source) as given, open_media(path) as made:
    stream = find_stream(given, kind, True)
    is_copied = stream.codec_context.name in _COPIED[kind]
    if kind == "video":
      end = start + seconds + _MARGIN
      if not is_copied or _end(source, kind) > end:
        return
    with (
      replacing(path) as partial,
      av.open(str(partial), "w", format="mp4") as output,
    ):
      copies = {
        other: output.add_stream_from_template(other)
        for other in made.streams
        if other.type != kind
      }
      if is_copied:
        target = output.add_stream_from_template(stream)
        packets = _copied(given, stream, start, seconds)
      else:
        codec = stream.codec_context
        target = output.add_stream(
          "flac", rate=codec.sample_rate, layout=codec.layout
        )
        target.codec_context.format = "s32" if codec.format.bytes > 2 else "s16"
        packets = _as_flac(given, stream, target, seconds)
      for packet in made.demux(*copies):
        _mux(output, copies[packet.stream], packet)
      for packet in packets:
        _mux(output, target, packet)


def _mux(output, target: av.stream.Stream, packet: av.Packet) -> None:
  if packet.dts is not None:  # else it is the mark of the end
    packet.stream = target
    output.mux(packet)


def _start(source: Path, kind: str) -> float:
  """Returns the time of the first frame, at which a clip begins."""
  with open_media(source) as container:
    frame = next(container.decode(find_stream(container, kind, True)), None)
    if frame is None or frame.time is None:
      raise ClipError(f"has no decodable {kind}")
    return frame.time


def _end(source: Path, kind: str) -> float:
  """Returns the time at which the last packet ends."""
  with open_media(source) as container:
    packets = container.demux(find_stream(container, kind, True))
    return max(
      float((packet.pts + (packet.duration or 0)) * packet.time_base)
      for packet in packets
      if packet.pts is not None
    )


def _copied(given, stream, start: float, seconds: float) -> Iterator[av.Packet]:
  """Yields packets on the clock of the clip, in the order of decoding."""
  shift, early = round(start / stream.time_base), []
  for packet in given.demux(stream):
    if packet.pts is None:
      continue
    packet.pts -= shift
    if packet.pts * stream.time_base >= seconds:
      break
    if packet.dts is None:
      early.append(packet)
      continue
    packet.dts -= shift
    # Matroska has no time of decoding for pictures before the first one.
    for i, other in enumerate(early):
      other.dts = packet.dts - (len(early) - i) * (packet.duration or 1)
    yield from early
    yield packet
    early = []
  for packet in early:
    packet.dts = packet.pts
  yield from early


def _as_flac(given, stream, target, seconds: float) -> Iterator[av.Packet]:
  """Yields the first `seconds` of sound, without losses up to 24 bits."""
  rate = stream.codec_context.sample_rate
  left = round(seconds * rate)
  resampler = av.AudioResampler(target.format, target.layout, rate)
  for frame in given.decode(stream):
    for piece in resampler.resample(frame):
      channels = piece.layout.nb_channels
      samples = piece.to_ndarray()[:, : left * channels]
      part = av.AudioFrame.from_ndarray(
        np.ascontiguousarray(samples), piece.format.name, piece.layout
      )
      part.sample_rate, part.pts = rate, round(seconds * rate) - left
      left -= part.samples
      yield from target.encode(part)
      if not left:
        yield from target.encode(None)
        return
  yield from target.encode(None)

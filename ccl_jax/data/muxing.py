"""Copies streams of the user's file into a result, unchanged if possible."""

import itertools
import math
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np

from ccl_jax.data.audio_clock import MAX_JITTER
from ccl_jax.data.audio_sync import stated_seconds
from ccl_jax.data.media import X264_OPTIONS, yuv_frame
from ccl_jax.data.opening import ClipError, Path, find_stream, open_media
from ccl_jax.data.pictures import RgbConverter, is_plain_yuv
from ccl_jax.data.video_sync import Deinterlacer, decode
from ccl_jax.storage.files import replacing

# What players of mp4 files decode; blocks of FLAC and ALAC may be too long to
# end with the clip, and nothing is lost when they are made anew.
_COPIED = {
  "video": ("h264", "hevc", "av1", "vp9", "mpeg4"),
  "audio": ("aac", "mp3", "opus", "ac3", "eac3"),
}
# Seconds by which containers round a time: a frame that begins this little
# before the end is not of the clip.
_ROUNDING = 2e-3
_MAX_CHANNELS = 8  # of FLAC
_CRF = "8"  # x264's quality, beyond what is seen
_TICKS = Fraction(1, 90_000)


def restore_stream(path: Path, kind: str, source: Path, seconds: float) -> None:
  """Replaces a stream of an mp4 file by that of the file it was read from.

  Packets are copied up to the end of the clip. Video is encoded anew, with its
  own size and rate, if players of mp4 do not support its codec, or if frames
  before the end depend on later ones. Audio of other codecs, such as PCM or
  ALAC, becomes FLAC with its own rate and channels; with more than eight
  channels it stays mono. A stream from which an edit list cuts something out is
  encoded anew, too.

  Args:
    path: an mp4 file.
    kind: "video" or "audio".
    source: any file that `media.read_clip` reads.
    seconds: length of the clip.
  """
  start = _start(source, kind)
  with open_media(source) as given, open_media(path) as made:
    stream = find_stream(given, kind, True)
    is_copied = stream.codec.canonical_name in _COPIED[kind]
    end = start + seconds
    is_copied = is_copied and not _is_edited(source, kind, start, end)
    if not is_copied and kind == "audio" and stream.channels > _MAX_CHANNELS:
      return
    if kind == "video":
      is_copied = is_copied and _can_be_cut(source, end)
    with (
      replacing(path) as partial,
      av.open(str(partial), "w", format="mp4") as output,
    ):
      copies = {
        other: output.add_stream_from_template(other, opaque=True)
        for other in made.streams
        if other.type != kind
      }
      if is_copied:
        # Opaque: without a codec, as there is no encoder for some of them.
        target = output.add_stream_from_template(stream, opaque=True)
        packets = _copied(given, stream, start, seconds)
      elif kind == "video":
        options = {"crf": _CRF, **X264_OPTIONS}
        target = output.add_stream("libx264", options=options)
        packets = _as_h264(given, stream, target, start, seconds)
      else:
        codec = stream.codec_context
        target = output.add_stream(
          "flac", rate=codec.sample_rate, layout=codec.layout
        )
        target.codec_context.format = "s32" if codec.format.bytes > 2 else "s16"
        packets = _as_flac(given, stream, target, seconds)
      first = next(packets, None)  # the encoder learns the size
      for packet in made.demux(*copies):
        _mux(output, copies[packet.stream], packet)
      for packet in itertools.chain([first] if first else [], packets):
        _mux(output, target, packet)


def _mux(output, target: av.stream.Stream, packet: av.Packet) -> None:
  if packet.dts is not None:  # else it is the mark of the end
    packet.stream = target
    output.mux(packet)


def _start(source: Path, kind: str) -> float:
  """Returns the time of the first frame, at which a clip begins."""
  with open_media(source) as container:
    frame = next(decode(container, find_stream(container, kind, True)), None)
    if frame is None or frame.time is None:
      raise ClipError(f"has no decodable {kind}")
    return frame.time


def _is_edited(source: Path, kind: str, start: float, end: float) -> bool:
  """Returns whether an edit list cuts out packets within a time."""
  with open_media(source) as container:
    return any(
      packet.is_discard and start <= packet.pts * packet.time_base < end
      for packet in container.demux(find_stream(container, kind, True))
      if packet.pts is not None
    )


def _can_be_cut(source: Path, end: float) -> bool:
  """Returns whether no frame before `end` depends on one after it."""
  later = False
  with open_media(source) as container:
    if container.format.name == "avi":
      return False  # It has the order of decoding alone.
    for packet in container.demux(find_stream(container, "video", True)):
      if not packet.size:
        continue
      if packet.pts is None:
        return False
      if packet.pts * packet.time_base >= end - _ROUNDING:
        later = True
      elif later:
        return False
      if packet.dts is not None and packet.dts * packet.time_base >= end:
        break
  return True


def _copied(given, stream, start: float, seconds: float) -> Iterator[av.Packet]:
  """Yields packets on the clock of the clip, in the order of decoding."""
  shift, early, last = round(start / stream.time_base), [], -math.inf
  for packet in given.demux(stream):
    if packet.pts is None:
      continue
    packet.pts -= shift
    if packet.pts * stream.time_base >= seconds - _ROUNDING:
      break
    if packet.dts is None:
      early.append(packet)
      continue
    # Stamps that jitter may be equal, which mp4 has not.
    last = packet.dts = max(packet.dts - shift, last + 1)
    packet.pts = max(packet.pts, packet.dts)
    # Matroska has no time of decoding for pictures before the first one.
    for i, other in enumerate(early):
      other.dts = packet.dts - (len(early) - i) * (packet.duration or 1)
    yield from early
    yield packet
    early = []
  for packet in early:
    packet.dts = packet.pts
  yield from early


def _as_h264(
  given, stream, target, start: float, seconds: float
) -> Iterator[av.Packet]:
  """Yields the pictures before the end, at their own times and size."""
  target.pix_fmt, target.codec_context.time_base = "yuv420p", _TICKS
  end, durations = round(seconds / _TICKS), {}

  def encode(picture):
    for packet in target.encode(picture):
      packet.duration = durations[packet.pts]  # x264 takes its rate's
      yield packet

  for time, shown, picture in _pictures(given, stream, start, seconds):
    if not durations:
      target.width, target.height = picture.width, picture.height
      target.codec_context.colorspace = picture.colorspace
    pts = max(round(time / _TICKS), max(durations, default=-1) + 1)
    picture.pts, picture.time_base = pts, _TICKS
    durations[pts] = min(round(shown / _TICKS) or end, end - pts)
    yield from encode(picture)
  yield from encode(None)


def _pictures(
  given, stream, start: float, seconds: float
) -> Iterator[tuple[float, float, av.VideoFrame]]:
  """Yields time, duration (0 if unknown) and picture of each before the end."""
  deinterlace = Deinterlacer()
  aspect = float(stream.sample_aspect_ratio or 1)
  to_rgb = RgbConverter(None, aspect)
  for frame in itertools.chain(decode(given, stream), [None]):
    for each in deinterlace(frame):
      time = each.time - start
      if time >= seconds - _ROUNDING:
        return
      # By way of RGB, edges of colours get softer.
      if aspect == 1 and is_plain_yuv(each):
        picture = each.reformat(format="yuv420p", dst_color_range="MPEG")
      else:
        picture = yuv_frame(to_rgb(each))
      yield time, stated_seconds(each), picture


def _as_flac(given, stream, target, seconds: float) -> Iterator[av.Packet]:
  """Yields the first `seconds` of sound, without losses up to 24 bits.

  What the file has no sound for is silence.
  """
  rate = stream.codec_context.sample_rate
  left, begin = round(seconds * rate), None
  for piece in _resampled(decode(given, stream), target, rate):
    channels, written = piece.layout.nb_channels, round(seconds * rate) - left
    gap = 0
    if piece.time is not None:
      begin = piece.time - written / rate if begin is None else begin
      late = round((piece.time - begin) * rate) - written
      gap = late if late > MAX_JITTER * rate else 0
    samples = np.pad(piece.to_ndarray(), ((0, 0), (gap * channels, 0)))
    samples = samples[:, : left * channels]
    part = av.AudioFrame.from_ndarray(
      np.ascontiguousarray(samples), piece.format.name, piece.layout
    )
    part.sample_rate, part.pts = rate, written
    left -= part.samples
    yield from target.encode(part)
    if not left:
      break
  yield from target.encode(None)


def _resampled(frames, target, rate: int) -> Iterator[av.AudioFrame]:
  """Yields frames in the target's format, whatever changes on the way."""
  form, resampler = None, None
  for frame in itertools.chain(frames, [None]):
    own = frame and (frame.format.name, frame.layout.name, frame.sample_rate)
    if own != form and resampler is not None:
      yield from resampler.resample(None)
    if own != form:
      form = own
      resampler = av.AudioResampler(target.format, target.layout, rate)
    if frame is not None:
      yield from resampler.resample(frame)

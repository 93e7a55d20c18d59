"""Packets of a container, decoded into resamplers up to the end of a clip.

Packets of different streams are not in a common order: a clip is complete when
each stream has what it needs. A clip that begins in the middle of a file is
decoded from an earlier point.
"""

from collections.abc import Collection

import av

from ccl_jax.data.audio_sync import MAX_MISSING_TAIL, AudioResampler
from ccl_jax.data.opening import ClipError, Path, find_stream, open_media
from ccl_jax.data.video_sync import FrameResampler, PacketDecoder, decode
from ccl_jax.streams import STREAMS

# Seconds that are decoded before a clip which begins in the middle of a file:
# packets of the streams are not in one order, and decoders of sound start late.
_PREROLL = 0.5


def find_point(
  path: Path, streams: Collection[str], seconds: float
) -> tuple[float, int | None]:
  """Returns the time of a point, and where to seek so as to decode it.

  Args:
    seconds: after time zero. In a file without an index there may be no earlier
      point to seek: None, to decode from the start.
  """
  with open_media(path) as container:
    found = [find_stream(container, s, False) for s in STREAMS if s in streams]
    stream = next((each for each in found if each is not None), None)
    first = stream and next(decode(container, stream), None)
    if first is None or first.time is None:
      raise ClipError("has no decodable beginning, by which times are counted")
    target = first.time + seconds
    seek = int(max(target - _PREROLL, 0) * av.time_base)
    container.seek(seek)
    reached = next(decode(container, stream), None)
    if reached is None or reached.time is None or reached.time > target:
      seek = None
    return target, seek


def decode_into(
  container,
  video: FrameResampler | None,
  audio: AudioResampler | None,
  seconds: float | None,
) -> None:
  """Decodes frames into the resamplers until they have `seconds`."""
  streams = [resampler.stream for resampler in (video, audio) if resampler]
  decode_packet = PacketDecoder(container)
  for packet in container.demux(*streams):
    is_audio = audio is not None and packet.stream is audio.stream
    try:
      frames = decode_packet(packet)
    except av.error.InvalidDataError:
      if not is_audio:
        raise
      # The first packet after a cut or a join often lacks what it refers to.
      audio.skip(packet)
      continue
    for frame in frames:
      if frame.time is None and is_audio and audio.start is not None:
        # The last one of Windows Media's sound, which the end completes.
        frame.pts = round(audio.end / frame.time_base)
      if frame.time is None:
        raise ClipError("has frames without timestamps")
      if frame.is_corrupt:
        raise ClipError(f"is damaged at {frame.time:.2f} s")
      (audio if is_audio else video).add(frame)
      if _is_enough(video, audio, seconds):
        return


def _is_enough(video, audio, seconds: float | None) -> bool:
  if seconds is None or (video and not video.is_full):
    return False
  # The margin is more than the resampler can hold back.
  margin = MAX_MISSING_TAIL
  return not audio or audio.end > (video or audio).start + seconds + margin

"""Clips with sound: reading at one frame rate, size and sample rate; writing.

Both streams share one clock, whatever their start offsets are. Time zero is the
first video frame (the first audio sample if no video is read). `video_sync` and
`audio_clock` say what is at which time.
"""

import contextlib
import wave
from collections.abc import Callable, Collection, Iterable, Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import av
import numpy as np
from jaxtyping import Float, UInt8

from ccl_jax.data.audio_sync import AudioResampler, stated_seconds
from ccl_jax.data.demuxing import decode_into, find_point
from ccl_jax.data.opening import (
  ClipError,
  Path,
  find_stream,
  open_image,
  open_media,
)
from ccl_jax.data.pictures import image_to_rgb
from ccl_jax.data.video_sync import FrameResampler
from ccl_jax.storage.files import replacing
from ccl_jax.streams import STREAMS

# x264's tree of macroblocks, with B-frames, reads memory that nobody has set:
# the same frames would not always be the same bytes.
X264_OPTIONS = {"x264-params": "mbtree=0"}
# Decoders overshoot a little; a file that exceeds this is not in [-1, 1].
_MAX_PEAK = 8.0


class Clip(NamedTuple):
  """Decoded media; a stream that the file lacks is None."""

  video: UInt8[np.ndarray, "t y x 3"] | None
  audio: Float[np.ndarray, " s"] | None


def read_clip(
  path: Path,
  *,
  fps: float = 25.0,
  size: tuple[int, int] | None = None,
  frames: int | None = None,
  sample_rate: int = 16_000,
  need_video: bool = True,
  need_audio: bool = True,
  streams: Collection[str] = STREAMS,
  start: float = 0.0,
) -> Clip:
  """Reads `frames` frames of a file (None: all) from `start`, and their sound.

  Args:
    path: any format that FFmpeg decodes: mp4, webm, mov, wav, flac, mp3...
    fps: frame rate of the result.
    size: (y, x) in pixels; frames are scaled to cover it and cropped at the
      centre. None keeps the source's size.
    frames: number of frames; there are round(frames / fps * sample_rate) audio
      samples.
    sample_rate: of the result, to which all channels are mixed, clipped to
      [-1, 1].
    need_video: raise an error if the file has no video.
    need_audio: raise an error if the file has no audio.
    streams: "video", "audio" or both; nothing else is read, so that it may be
      short, damaged or in an unknown format.
    start: seconds after time zero.

  Raises:
    ClipError: the file is unreadable, damaged, shorter than needed or lacks a
      stream, or its audio has samples that are not numbers or far beyond 1.
  """
  needed = {"video": need_video, "audio": need_audio}
  begin, seek = find_point(path, streams, start) if start else (0.0, None)
  with open_media(path) as container:
    video_stream, audio_stream = (
      find_stream(container, stream, needed[stream])
      if stream in streams
      else None
      for stream in STREAMS
    )
    if video_stream is None and audio_stream is None:
      raise ClipError("has neither pictures nor sound")
    if seek is not None:
      container.seek(seek)
    video = video_stream and FrameResampler(video_stream, fps, size, frames)
    audio = audio_stream and AudioResampler(audio_stream, sample_rate)
    if start:
      (video or audio).start, (video or audio).passed_over = begin, start
    seconds = None if frames is None else frames / fps
    decode_into(container, video, audio, seconds)
    images = video and video.finish()
    if audio is None:
      return Clip(images, None)
    if images is not None:
      # Sound is cut to the video, also where all frames are read.
      seconds = len(images) / fps
    samples = audio.finish(video and video.start, seconds)
    return Clip(images, _check_range(samples))


def read_image(
  path: Path, size: tuple[int, int] | None = None
) -> UInt8[np.ndarray, "y x 3"]:
  """Reads a still image as RGB, scaled to cover `size` and cropped.

  Transparent pixels are on white; of several pictures the first one is read.

  Args:
    path: png, jpeg, webp, bmp, gif or tiff.

  Raises:
    ClipError: unreadable, too large, or not one of these formats.
  """
  with open_image(path) as image:
    return image_to_rgb(image, size)


def declared_duration(path: Path) -> float:
  """Returns the seconds in a file's header, or 0; ClipError if unreadable."""
  with open_media(path) as container:
    return (container.duration or 0) / av.time_base


class Header(NamedTuple):
  """The contents of a file's header.

  Attributes:
    seconds: of each stream, "video" or "audio", that the file has; 0 if it does
      not say.
    size: (y, x) of the pictures, or None.
  """

  seconds: dict[str, float]
  size: tuple[int, int] | None

  @property
  def length(self) -> float:
    """Returns the seconds of the video, else of the sound; 0 if not known."""
    return next(iter(self.seconds.values()), 0.0)


def read_header(path: Path) -> Header:
  """Returns what a file's header says; ClipError if it is unreadable."""
  with open_media(path) as container:
    found = {kind: find_stream(container, kind, False) for kind in STREAMS}
    whole = (container.duration or 0) / av.time_base
    seconds = {
      kind: stated_seconds(stream) or whole
      for kind, stream in found.items()
      if stream is not None
    }
    codec = found["video"] and found["video"].codec_context
    return Header(seconds, (codec.height, codec.width) if codec else None)


def quality_of_inputs(names: Collection[str]) -> dict[str, Any]:
  """Returns arguments of `writing_mp4` for streams that the user gave."""
  quality = {"video": {"crf": 8}, "audio": {"audio_codec": "flac"}}
  return {k: x for name in names for k, x in quality[name].items()}


def write_mp4(
  path: Path,
  video: Iterable[UInt8[np.ndarray, "y x 3"]],
  fps: float,
  audio: Float[np.ndarray, " s"] | None = None,
  sample_rate: int = 16_000,
  **quality,
) -> None:
  """Writes all frames of `video`; see `writing_mp4`."""
  with writing_mp4(path, fps, audio, sample_rate, **quality) as add_frame:
    for image in video:
      add_frame(image)


@contextlib.contextmanager
def writing_mp4(
  path: Path,
  fps: float,
  audio: Float[np.ndarray, " s"] | None = None,
  sample_rate: int = 16_000,
  *,
  crf: int = 18,
  audio_codec: str = "aac",
) -> Iterator[Callable[[np.ndarray], None]]:
  """Yields a function that adds a frame, (y, x, 3) bytes, to an mp4 file.

  The file appears, complete, when the block ends. H.264 (yuv420p) and AAC; odd
  sizes gain an edge row or column.

  Args:
    crf: x264's quality: 0 is lossless, 18 looks lossless, 23 is small.
    audio_codec: "aac", or "flac", which is lossless.

  Raises:
    ValueError: no frames, or a frame rate that is not positive.
  """
  if fps <= 0:
    raise ValueError(f"{fps=}: expected some frames and a positive rate.")
  rate = Fraction(fps).limit_denominator(1001)
  count = 0
  with (
    replacing(path) as partial,
    av.open(str(partial), "w", format="mp4") as container,
  ):
    # Both streams must exist before the first packet is written.
    options = {"crf": str(crf), "preset": "veryfast", **X264_OPTIONS}
    video_stream = container.add_stream("libx264", rate=rate, options=options)
    video_stream.pix_fmt = "yuv420p"
    if audio is not None:
      audio_stream = container.add_stream(
        audio_codec, rate=sample_rate, layout="mono", bit_rate=96_000
      )

    def add_frame(image: UInt8[np.ndarray, "y x 3"]) -> None:
      nonlocal count
      frame = yuv_frame(image)
      if not count:
        video_stream.height, video_stream.width = frame.height, frame.width
        video_stream.codec_context.colorspace = frame.colorspace
      frame.pts, frame.time_base = count, 1 / rate
      container.mux(video_stream.encode(frame))
      count += 1

    yield add_frame
    if not count:
      raise ValueError(f"{path}: expected some frames and got none.")
    container.mux(video_stream.encode(None))
    if audio is not None:
      _mux_audio(container, audio_stream, audio, sample_rate)


def write_wav(
  path: Path, audio: Float[np.ndarray, " s"], sample_rate: int = 16_000
) -> None:
  """Writes 16-bit mono PCM."""
  samples = np.round(np.clip(audio, -1, 1) * 32767).astype("<i2")
  with replacing(path) as partial, wave.open(str(partial), "wb") as file:
    file.setnchannels(1)
    file.setsampwidth(2)
    file.setframerate(sample_rate)
    file.writeframes(samples.tobytes())


def yuv_frame(image: UInt8[np.ndarray, "y x 3"]) -> av.VideoFrame:
  """Returns a frame in yuv420p; odd sizes gain an edge row or column.

  From 720 lines on it is BT.709, with this tag, else BT.601, as players assume.
  """
  y, x, _ = image.shape
  even = np.pad(image, ((0, y % 2), (0, x % 2), (0, 0)), mode="edge")
  frame = av.VideoFrame.from_ndarray(even, format="rgb24")
  matrix = "ITU709" if frame.height >= 720 else None
  return frame.reformat(format="yuv420p", dst_colorspace=matrix)


def _mux_audio(container, stream, audio: np.ndarray, sample_rate: int) -> None:
  samples = np.clip(audio, -1, 1).astype(np.float32)[None]
  frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
  frame.sample_rate, frame.pts = sample_rate, 0
  container.mux(stream.encode(frame))
  container.mux(stream.encode(None))


def _check_range(samples: Float[np.ndarray, " s"]) -> Float[np.ndarray, " s"]:
  """Returns samples clipped to [-1, 1]; ClipError if they are far beyond."""
  peak = np.abs(samples).max(initial=0)
  if not peak <= _MAX_PEAK:  # catches NaN too
    raise ClipError(f"sound reaches {peak:.3g}, expected samples in [-1, 1]")
  return np.clip(samples, -1, 1)

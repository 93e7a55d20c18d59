"""Clips with sound: reading at one frame rate, size and sample rate; writing.

One clock for both streams. Time zero is the first video frame (the first sound
sample where there is no picture). Output frame k is the source frame whose
timestamp is nearest to k / fps; a sound sample with timestamp t lands at index
round(t * sample_rate), whatever the streams' start offsets are, and silence
fills what the file leaves out.
"""

import contextlib
import os
import wave
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from jaxtyping import Float, UInt8

from ccl_jax.data.av_sync import (
  TAIL,
  AudioResampler,
  ClipError,
  FrameResampler,
  fit,
)
from ccl_jax.files import local_copy, replacing

Path = str | os.PathLike

# Decoders overshoot a little; beyond this a file does not mean [-1, 1].
_LOUDEST = 8.0
_IMAGES = ("image2", "png_pipe", "jpeg_pipe", "webp_pipe", "bmp_pipe")


class Clip(NamedTuple):
  """Decoded media; a stream that the file does not have is None."""

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
) -> Clip:
  """The first `frames` frames of a file (all if None) and their sound.

  Args:
    path: anything FFmpeg decodes: mp4, webm, mov, wav, flac, mp3...
    fps: frame rate of the result.
    size: (y, x) in pixels; pictures are scaled to cover it and cropped at the
      centre. None keeps the source's size.
    frames: how many; the sound has round(frames / fps * sample_rate) samples.
    sample_rate: of the result, the mean of all channels, in [-1, 1]; what
      overshoots is clipped.
    need_video: whether a file without pictures is an error.
    need_audio: whether a file without sound is an error.

  Raises:
    ClipError: unreadable, damaged, shorter than needed, lacks a stream, or its
      sound has samples that are not numbers or far beyond 1.
  """
  with _opened(path) as container:
    video = _stream(container, "video", need_video)
    audio = _stream(container, "audio", need_audio)
    if video is None and audio is None:
      raise ClipError("has neither pictures nor sound")
    pictures = video and FrameResampler(video, fps, size, frames)
    sound = audio and AudioResampler(audio, sample_rate)
    seconds = None if frames is None else frames / fps
    _decode(container, pictures, sound, seconds)
    images = pictures and pictures.finish()
    if sound is None:
      return Clip(images, None)
    if images is not None:
      # Sound is cut to the picture, also where all frames were asked for.
      seconds = len(images) / fps
    samples = sound.finish(pictures and pictures.start, seconds)
    return Clip(images, _checked(samples))


def read_image(
  path: Path, size: tuple[int, int] | None = None
) -> UInt8[np.ndarray, "y x 3"]:
  """A png, jpeg, webp or bmp as RGB, scaled to cover `size` and cropped.

  Raises:
    ClipError: unreadable, or not one of these kinds.
  """
  with _opened(path) as container:
    if container.format.name not in _IMAGES:
      raise ClipError(
        f"is {container.format.long_name}, not an image"
        " (png, jpeg, webp or bmp expected)"
      )
    frame = next(container.decode(video=0), None)
    if frame is None:
      raise ClipError("holds no picture")
    return fit(frame, size, VideoReformatter())


def seconds(path: Path) -> float:
  """How long a file says that it is; 0 if it does not.

  Raises:
    ClipError: unreadable.
  """
  with _opened(path) as container:
    return (container.duration or 0) / av.time_base


def write_mp4(
  path: Path,
  video: Iterable[UInt8[np.ndarray, "y x 3"]],
  fps: float,
  audio: Float[np.ndarray, " s"] | None = None,
  sample_rate: int = 16_000,
  *,
  crf: int = 18,
) -> None:
  """`writing_mp4` for frames that can be iterated over, such as an array's."""
  with writing_mp4(path, fps, audio, sample_rate, crf=crf) as add:
    for image in video:
      add(image)


@contextlib.contextmanager
def writing_mp4(
  path: Path,
  fps: float,
  audio: Float[np.ndarray, " s"] | None = None,
  sample_rate: int = 16_000,
  *,
  crf: int = 18,
) -> Iterator[Callable[[np.ndarray], None]]:
  """Yields what adds a frame, (y, x, 3) bytes, to a file that is whole at last.

  H.264 (yuv420p) and AAC; odd sizes gain an edge row or column. `crf` is x264's
  quality: 0 is lossless, 18 looks it, 23 is small.

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
    pictures = container.add_stream(
      "libx264", rate=rate, options={"crf": str(crf), "preset": "veryfast"}
    )
    pictures.pix_fmt = "yuv420p"
    sound = None
    if audio is not None:
      sound = container.add_stream("aac", rate=sample_rate, layout="mono")
      sound.bit_rate = 96_000

    def add(image: UInt8[np.ndarray, "y x 3"]) -> None:
      nonlocal count
      odd_y, odd_x = image.shape[0] % 2, image.shape[1] % 2
      if odd_y or odd_x:
        image = np.pad(image, ((0, odd_y), (0, odd_x), (0, 0)), mode="edge")
      if not count:
        pictures.height, pictures.width = image.shape[:2]
      frame = av.VideoFrame.from_ndarray(image, format="rgb24")
      frame.pts, frame.time_base = count, 1 / rate
      container.mux(pictures.encode(frame))
      count += 1

    yield add
    if not count:
      raise ValueError(f"{path}: expected some frames and got none.")
    container.mux(pictures.encode(None))
    if sound is not None:
      wave = np.clip(audio, -1, 1).astype(np.float32)[None]
      frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
      frame.sample_rate, frame.pts = sample_rate, 0
      container.mux(sound.encode(frame))
      container.mux(sound.encode(None))


def write_wav(
  path: Path, audio: Float[np.ndarray, " s"], sample_rate: int = 16_000
) -> None:
  """16-bit mono PCM."""
  samples = np.round(np.clip(audio, -1, 1) * 32767).astype("<i2")
  with replacing(path) as partial, wave.open(str(partial), "wb") as file:
    file.setnchannels(1)
    file.setsampwidth(2)
    file.setframerate(sample_rate)
    file.writeframes(samples.tobytes())


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[av.container.InputContainer]:
  """An open file; what goes wrong becomes a ClipError with its name."""
  try:
    with (
      local_copy(path) as local,
      av.open(str(local), metadata_errors="ignore") as container,
    ):
      yield container
  except (av.FFmpegError, OSError, ClipError) as error:
    reason = getattr(error, "strerror", None) or error
    raise ClipError(f"{os.fspath(path)}: {reason}") from error


def _stream(container, kind: str, needed: bool):
  """The first stream of a kind; cover pictures in music files do not count."""
  for stream in getattr(container.streams, kind):
    if not stream.disposition & av.stream.Disposition.attached_pic:
      return stream
  if needed:
    raise ClipError(f"has no {kind} stream")
  return None


def _decode(container, pictures, sound, seconds: float | None) -> None:
  """Feeds decoded frames to the collectors until they have `seconds`."""
  streams = [each.stream for each in (pictures, sound) if each]
  for frame in container.decode(*streams):
    if frame.time is None:
      raise ClipError("has frames without timestamps")
    if frame.is_corrupt:
      raise ClipError(f"is damaged at {frame.time:.2f} s")
    (pictures if isinstance(frame, av.VideoFrame) else sound).add(frame)
    if _is_enough(pictures, sound, seconds):
      return


def _checked(samples: Float[np.ndarray, " s"]) -> Float[np.ndarray, " s"]:
  peak = np.abs(samples).max(initial=0)
  if not peak <= _LOUDEST:  # nor is NaN
    raise ClipError(f"sound reaches {peak:.3g}, expected samples in [-1, 1]")
  return np.clip(samples, -1, 1)


def _is_enough(pictures, sound, seconds: float | None) -> bool:
  if seconds is None or (pictures and not pictures.is_full):
    return False
  # The tail is more than the resampler can hold back.
  return not sound or sound.end > (pictures or sound).start + seconds + TAIL

"""The one place that opens files that users bring.

A file may list other files and addresses (a playlist, a manifest), and a name
may itself be an address: none of these is followed. A header may claim any
size, so sizes are checked before a picture is decoded.
"""

import contextlib
import io
import os
import warnings
from collections.abc import Iterator

import av
from PIL import Image

from ccl_jax.storage.files import is_remote, local_copy
from ccl_jax.storage.tar_files import TarMember

Path = str | os.PathLike

# A picture takes up to 43 bytes a pixel while it is decoded and converted (an
# RGBA webp; a png 35), and a video decoder keeps some: below 3 GB in all.
MAX_PIXELS = 2**26

# Kinds of which each file is whole. concat, hls, dash, sdp, image2 and others
# that open what their text or name says are not among them.
_CONTAINERS = (
  "mov", "matroska", "avi", "flv", "asf", "mpegts", "mpeg", "ogg", "mxf", "dv",
  "gif", "apng", "wav", "w64", "aiff", "au", "caf", "amr", "flac", "mp3", "aac",
  "ac3", "eac3", "ape", "wv", "tta",
)  # fmt: skip
# Of files that are read as clips.
SUFFIXES = (
  ".mp4", ".mov", ".m4v", ".webm", ".mkv", ".avi", ".flv", ".f4v", ".wmv",
  ".asf", ".mpg", ".mpeg", ".vob", ".ts", ".mts", ".m2ts", ".3gp", ".3g2",
  ".ogv", ".ogm", ".mxf", ".wav", ".flac", ".mp3", ".mp2", ".m4a", ".m4b",
  ".aac", ".ogg", ".oga", ".opus", ".wma", ".mka", ".aif", ".aiff", ".aifc",
  ".caf", ".au", ".ac3", ".amr",
)  # fmt: skip
_IMAGES = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
_THUMBNAIL = (
  av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
)
_LIMITS = {"max_pixels": str(MAX_PIXELS)}
_PROBED = 25  # packets of a stream that is not the only one
_FEW = 2  # pictures of a thumbnail, which some containers write twice
_TOO_LARGE = (
  "has pictures of {} pixels, expected at most"
  f" {MAX_PIXELS / 1e6:.0f} megapixels: scale it down"
)


class ClipError(ValueError):
  """A file that cannot be used; the message says why."""


@contextlib.contextmanager
def open_media(path: Path) -> Iterator[av.container.InputContainer]:
  """Opens a clip; errors in the block become a ClipError with its name."""
  with _source(path) as source, _open(source) as container:
    yield container


def _open(source: str | io.BufferedReader) -> av.container.InputContainer:
  try:
    return av.open(
      source,
      metadata_errors="ignore",
      options=_LIMITS,
      container_options={
        "format_whitelist": ",".join(_CONTAINERS),
        "protocol_whitelist": "file",
      },
    )
  except av.error.ArgumentError as error:
    raise ClipError(
      "is a list of other files, or of a kind that is not read"
      " (mp4, mov, mkv, webm, avi, ts, wav, flac, mp3... expected)"
    ) from error


@contextlib.contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
  """Opens a still image; errors in the block are as in `open_media`."""
  with _source(path) as source:
    try:
      with warnings.catch_warnings(action="ignore"):  # of sizes, of EXIF
        image = Image.open(source, formats=_IMAGES)
    except Image.DecompressionBombError as error:
      raise ClipError(_TOO_LARGE.format("too many")) from error
    except Image.UnidentifiedImageError as error:
      raise ClipError(
        "is not an image (png, jpeg, webp, bmp, gif or tiff expected)"
      ) from error
    with image:
      check_size(*image.size)
      yield image


def find_stream(
  container: av.container.InputContainer, kind: str, is_needed: bool
) -> av.VideoStream | av.AudioStream | None:
  """Returns the first stream of a kind that can be decoded and is no thumbnail.

  Among several streams, it skips those whose decoder refuses most of the first
  packets, and one of few pictures beside a film.

  Raises:
    ClipError: pictures that are too large, or no such stream and `is_needed`.
  """
  found = [
    stream
    for stream in getattr(container.streams, kind)
    if not stream.disposition & _THUMBNAIL
  ]
  usable = [stream for stream in found if stream.codec_context is not None]
  # One frame beside others is no film, though nothing says so.
  usable = [stream for stream in usable if stream.frames != 1] or usable
  if not usable:
    if is_needed and found:
      raise ClipError(f"has {kind} in a format that is not known here")
    if is_needed:
      raise ClipError(f"has no {kind} stream")
    return None
  if len(usable) > 1:
    usable = _choose(container, usable)
  codec = usable[0].codec_context
  if kind == "video":
    check_size(codec.width, codec.height)
    codec.options = _LIMITS
  return usable[0]


@contextlib.contextmanager
def _again(
  container: av.container.InputContainer,
) -> Iterator[av.container.InputContainer]:
  """Opens what a container reads once more, from its start."""
  source = container.name
  with contextlib.ExitStack() as stack:
    if container.file is not None:
      source = container.file.file
      stack.callback(source.seek, source.tell())
      source.seek(0)
    yield stack.enter_context(_open(source))


def _choose(
  container: av.container.InputContainer, streams: list[av.stream.Stream]
) -> list[av.stream.Stream]:
  """Returns those that can be decoded and are no thumbnails, if there are any.

  Most containers do not say how many pictures there are.
  """
  counts = [_probe(container, stream) for stream in streams]
  # Sound may be one long packet.
  few = _FEW if streams[0].type == "video" and max(counts) > _FEW else 0
  chosen = zip(streams, counts, strict=True)
  return [stream for stream, num in chosen if num > few] or streams


def _probe(
  container: av.container.InputContainer, stream: av.stream.Stream
) -> int:
  """Returns how many frames a stream's first packets give.

  It is 0 if the decoder refuses as many packets. The file is opened again, so
  that the caller's container stays at its start.
  """
  taken = refused = 0
  with _again(container) as again:
    own = again.streams[stream.index]
    if stream.type == "video":
      own.codec_context.options = _LIMITS
    for packet in again.demux(own):
      try:
        taken += sum(not frame.is_corrupt for frame in packet.decode())
      except av.FFmpegError:
        refused += 1
      if taken + refused >= _PROBED:
        break
  return taken if taken > refused else 0


def check_size(width: int, height: int) -> None:
  """Raises ClipError for a picture too large to be decoded, or of no size."""
  # FFmpeg leaves a size at 0 if it is beyond `max_pixels`.
  if not 0 < width * height <= MAX_PIXELS:
    size = f"{width}x{height}" if width * height else "an unknown number of"
    raise ClipError(_TOO_LARGE.format(size))


@contextlib.contextmanager
def _source(path: Path) -> Iterator[str | io.BufferedReader]:
  """Yields the absolute path of a local file, or of a copy of a remote one.

  Of a file in a tar it yields that part of the tar as an open file.
  """
  try:
    if isinstance(path, TarMember):
      with path.open() as member:
        yield member
      return
    # Paths of epath lead to other services too, such as hf://.
    if is_remote(path) and not os.fspath(path).startswith("gs://"):
      raise ClipError("is an address; files and buckets (gs://) are read")
    with local_copy(path) as local:
      if local.exists() and not local.is_file():
        raise ClipError("is not a file")
      if local.exists() and not local.stat().st_size:
        raise ClipError("is empty")
      # FFmpeg takes "http:x" and "concat:a|b" for addresses.
      yield str(local.absolute())
  except ImportError:  # of a bucket's library
    raise
  except Exception as error:  # Decoders raise almost anything.
    reason = getattr(error, "strerror", None) or error
    if isinstance(error, av.error.InvalidDataError):
      reason = f"{reason} (no clip, or damaged or cut short)"
    if not isinstance(error, av.FFmpegError | OSError | ValueError):
      reason = f"cannot be decoded ({type(error).__name__}: {error})"
    raise ClipError(f"{os.fspath(path)}: {reason}") from error

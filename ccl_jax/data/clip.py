"""The shape of a clip in pixels, seconds and latents; a generated clip."""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Float, UInt8

from ccl_jax.array_types import audio_per_frame, audio_starts
from ccl_jax.codecs.api import Codecs, latent_frames
from ccl_jax.data import media
from ccl_jax.data.opening import SUFFIXES

# Of still images, which are clips of one frame where such are wanted.
IMAGE_SUFFIXES = (
  ".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff",
)  # fmt: skip
# Of a result's name: file systems allow 255, some for a suffix, a task and the
# name of a temporary file.
MAX_BYTES = 190


def is_image(name: str) -> bool:
  """Returns whether a name is one of a still image."""
  return name.lower().endswith(IMAGE_SUFFIXES)


def without_suffix(path: epath.PathLike) -> str:
  """Returns a path without the suffix of a clip, if it has one.

  >>> without_suffix("a/clip.mp4"), without_suffix("clip_2.5")
  ('a/clip', 'clip_2.5')
  """
  stem, suffix = os.path.splitext(os.fspath(path))
  return stem if suffix.lower() in SUFFIXES else os.fspath(path)


class FileNames:
  """Names for the files of clips: each a different one, and not too long."""

  def __init__(self):
    self._files: set[str] = set()
    self._folders: set[str] = set()

  def make(self, name: str, suffix: str, number: int) -> str:
    """Returns the relative path for a clip's file.

    Args:
      name: of the clip, perhaps with folders.
      suffix: of the file, in place of the clip's.
      number: of the clip, which is appended if the name is taken.
    """
    path = pathlib.PurePosixPath(without_suffix(name))
    parts = [_shorten(x) for x in path.parts if x not in ("/", "..")]
    stem = "/".join(parts) or "clip"
    if self._files & {f"{x}" for x in pathlib.PurePosixPath(stem).parents}:
      stem = _shorten(stem.replace("/", "_"))
    file = f"{stem}{suffix}"
    while file in self._files | self._folders:
      stem = f"{stem}_{number}"
      file = f"{stem}{suffix}"
    self._files.add(file)
    self._folders |= {f"{x}" for x in pathlib.PurePosixPath(file).parents}
    return file


def _shorten(name: str) -> str:
  """Returns a name of at most `MAX_BYTES` bytes, long ones with a hash."""
  encoded = name.encode()
  if len(encoded) <= MAX_BYTES:
    return name
  digest = hashlib.sha256(encoded).hexdigest()[:10]
  return encoded[: MAX_BYTES - 11].decode(errors="ignore") + f"_{digest}"


class Extent(NamedTuple):
  """The size and length of a file.

  Attributes:
    size: (y, x) pixels as shown; None for a sound.
    seconds: 0 if unknown, or for an image.
  """

  size: tuple[int, int] | None
  seconds: float
  is_image: bool = False


@dataclasses.dataclass(frozen=True)
class ClipShape:
  """Frame rate, number of frames and size (y, x) in pixels of a clip."""

  fps: float
  frames: int
  size: tuple[int, int]

  @classmethod
  def from_dict(cls, mapping: Mapping[str, Any]) -> "ClipShape":
    """Returns the shape from its fields in a mapping, as in metadata.json."""
    return cls(mapping["fps"], mapping["frames"], tuple(mapping["size"]))

  @property
  def seconds(self) -> float:
    """Returns the length of a clip."""
    return self.frames / self.fps

  def scale(self, size: tuple[int, int]) -> float:
    """Returns how much pictures of (y, x) are enlarged to cover this size."""
    return max(self.size[0] / size[0], self.size[1] / size[1])

  def share(self, size: tuple[int, int]) -> float:
    """Returns the part of such a picture that is inside the crop."""
    ratio = self.size[0] * size[1] / (self.size[1] * size[0])
    return min(ratio, 1 / ratio)

  def __str__(self) -> str:
    return f"{self.frames}x{self.size[0]}x{self.size[1]}"

  def audio_per_frame(self, codecs: Codecs) -> float:
    """Returns the number of audio latents in the time of a video latent."""
    return audio_per_frame(self.fps, codecs.audio.rate, codecs.video.stride[0])

  def latent_shapes(
    self, codecs: Codecs, per_frame: float | int | None = None
  ) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of one clip's latents: (f, h, w, c) and (m, c).

    Args:
      per_frame: audio latents of a frame, as a model has them; None takes
        `audio_per_frame`. Models of early versions have it rounded.
    """
    t, y, x = codecs.video.stride
    f = latent_frames(self.frames, t)
    m = int(audio_starts(f, per_frame or self.audio_per_frame(codecs))[-1])
    return {
      "video": (f, self.size[0] // y, self.size[1] // x, codecs.video.channels),
      "audio": (m, codecs.audio.channels),
    }

  def num_samples(self, codecs: Codecs) -> int:
    """Returns the number of audio samples of a clip."""
    return round(self.seconds * codecs.audio.sample_rate)

  def check(
    self,
    codecs: Codecs,
    videos: Sequence[np.ndarray],
    audios: Sequence[np.ndarray],
  ) -> None:
    """Raises ValueError for frames or samples that are not of this shape."""
    frames, samples = (self.frames, *self.size, 3), (self.num_samples(codecs),)
    pairs = [(x, frames) for x in videos] + [(x, samples) for x in audios]
    for x, expected in pairs:
      if x.shape != expected:
        raise ValueError(
          f"got {x.shape=}, expected {expected}: read it with"
          " data.media.read_clip."
        )


@dataclasses.dataclass(frozen=True)
class GeneratedClip:
  """Decoded frames, samples, or both, and the log-mel of the samples.

  Attributes:
    given: streams that the user gave, which lose little or nothing in files.
  """

  fps: float
  sample_rate: int
  video: UInt8[np.ndarray, "t y x 3"] | None = None
  audio: Float[np.ndarray, " s"] | None = None
  mel: Float[np.ndarray, "n mels"] | None = None
  given: tuple[str, ...] = ()

  def save(self, path: epath.PathLike) -> epath.Path:
    """Writes mp4, or wav if there is no video; returns the path written.

    If `path` has the suffix of a clip, it is replaced.
    """
    suffix = ".wav" if self.video is None else ".mp4"
    path = epath.Path(without_suffix(path) + suffix)
    if self.video is None:
      media.write_wav(path, self.audio, self.sample_rate)
    else:
      media.write_mp4(
        path, self.video, self.fps, self.audio, self.sample_rate,
        **media.quality_of_inputs(self.given),
      )  # fmt: skip
    return path

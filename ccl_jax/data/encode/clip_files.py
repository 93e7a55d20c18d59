"""The clips of a folder, before any caption is read, and their extents."""

import os
import posixpath
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from etils import epath
from PIL import ExifTags

from ccl_jax.data import media
from ccl_jax.data.clip import ClipShape, Extent, is_image
from ccl_jax.data.encode.folder import ListedFile, list_with_tars
from ccl_jax.data.opening import SUFFIXES, open_image


class ClipFile(NamedTuple):
  """One media file or a part of it; `name` is its path relative to the folder.

  `path` may be of a file in a tar.

  `problem` says why it cannot be read, if that is known without reading it.
  `start` and `end` are seconds in the file; `end` None is its end. `shape` is
  that of its examples, if a data set has several; `extent` is that of the file,
  once measured.
  """

  path: os.PathLike
  name: str
  caption: str = ""
  split: str = ""
  problem: str = ""
  start: float = 0.0
  end: float | None = None
  shape: ClipShape | None = None
  extent: Extent | None = None


def list_clip_files(
  folder: epath.PathLike, images: bool = False
) -> list[ClipFile]:
  """Returns a folder's clips in order of name; ValueError if there are none.

  Args:
    images: still images are clips too.
  """
  found, clips = find_clips(epath.Path(folder), images)
  return [
    ClipFile(found[x].path, readable(x), problem=found[x].problem)
    for x in clips
  ]


def find_clips(
  folder: epath.Path, images: bool = False
) -> tuple[dict[str, ListedFile], list[str]]:
  """Returns all files by name and the names of clips; ValueError if none."""
  found = list_with_tars(folder) if folder.is_dir() else {}
  # What cannot be read is a clip that is left out, whatever its suffix.
  clips = [
    name
    for name in sorted(found)
    if found[name].problem
    or name.lower().endswith(SUFFIXES)
    or (images and is_image(name))
  ]
  if not clips:
    seen = describe_counts(count_suffixes(sorted(found))) or "no files"
    raise ValueError(
      f"No clips in {folder}: it has {seen}, expected {' '.join(SUFFIXES)}."
    )
  return found, clips


def describe_counts(counts: Mapping[str, int]) -> str:
  """Returns "12 .jpg, 3 .txt", the largest number first.

  >>> describe_counts({".txt": 3, ".jpg": 12})
  '12 .jpg, 3 .txt'
  """
  ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
  return ", ".join(f"{count} {name}" for name, count in ordered)


def readable(name: str) -> str:
  """Returns a name with escapes for bytes that are not UTF-8."""
  return name.encode(errors="backslashreplace").decode()


def count_suffixes(names: Iterable[str]) -> Counter[str]:
  """Returns suffix -> number of names."""
  suffixes = (posixpath.splitext(name)[1].lower() for name in names)
  return Counter(suffix or "without suffix" for suffix in suffixes)


def measure(file: ClipFile) -> Extent | media.ClipError:
  """Returns the extent of a whole file, or why it cannot be read."""
  if file.extent is not None:
    return file.extent
  try:
    if file.problem:
      raise media.ClipError(file.problem)
    if is_image(file.name):
      return Extent(_image_size(file), 0.0, is_image=True)
    header = media.read_header(file.path)
    size = None
    if "video" in header.seconds:  # Only a frame says how it is turned.
      first = media.read_clip(file.path, frames=1, streams=("video",))
      size = first.video.shape[1:3]
    return Extent(size, header.length)
  # Encoding reports the same error.
  except Exception as error:
    return media.ClipError(str(error))


def _image_size(file: ClipFile) -> tuple[int, int]:
  with open_image(file.path) as image:
    x, y = image.size
    is_turned = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    return (x, y) if is_turned else (y, x)

"""The clips of a folder and of its subfolders, before any caption is read."""

import os
import posixpath
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from etils import epath

from ccl_jax.data.clip import ClipShape, Extent, is_image
from ccl_jax.data.encode.folder import expand_tars, list_files
from ccl_jax.data.opening import SUFFIXES
from ccl_jax.storage.tar_files import TarMember


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
  """Returns the clips of a folder in order of name, without captions.

  Args:
    images: still images are clips too.

  Raises:
    ValueError: no clips.
  """
  folder = epath.Path(folder)
  found, clips, members = find_clips(folder, images)
  return [
    ClipFile(
      members.get(name, folder / name), readable(name), problem=found[name]
    )
    for name in clips
  ]


def find_clips(
  folder: epath.Path, images: bool = False
) -> tuple[dict[str, str], list[str], dict[str, TarMember]]:
  """Returns name -> problem or "" of all files, and the names of the clips.

  This includes files in tars; a/b.tar/c.mp4 is c.mp4 in a/b.tar.

  Raises:
    ValueError: no clips.
  """
  found = list_files(folder) if folder.is_dir() else {}
  members = expand_tars(folder, found)
  # What cannot be read is a clip that is left out, whatever its suffix.
  clips = [x for x in sorted(found) if found[x] or _is_clip(x, images)]
  if not clips:
    seen = describe_counts(count_suffixes(sorted(found))) or "no files"
    raise ValueError(
      f"No clips in {folder}: it has {seen}, expected {' '.join(SUFFIXES)}."
    )
  return found, clips, members


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


def _is_clip(name: str, images: bool = False) -> bool:
  return name.lower().endswith(SUFFIXES) or (images and is_image(name))


def count_suffixes(names: Iterable[str]) -> Counter[str]:
  """Returns suffix -> number of names."""
  suffixes = (posixpath.splitext(name)[1].lower() for name in names)
  return Counter(suffix or "without suffix" for suffix in suffixes)

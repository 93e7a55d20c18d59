"""Joins the annotations of a data set with the clips in a folder."""

import json
import posixpath
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from etils import epath

from ccl_jax.data.annotations.layouts import Annotation
from ccl_jax.data.clip import SUFFIXES, without_suffix
from ccl_jax.data.encode.caption_files import TIMES, check_row
from ccl_jax.data.encode.clip_files import list_clip_files
from ccl_jax.storage.files import check_apart, check_file, replacing


class Joined(NamedTuple):
  """Rows of captions.jsonl, and what they were made of.

  Attributes:
    total: annotations of different clips.
    repeated: annotations of a clip that has another one already.
    absent: a name of each annotation whose clip is not there.
  """

  rows: list[dict[str, Any]]
  total: int
  repeated: int
  absent: list[str]

  def __str__(self) -> str:
    lines = [f"{self.total - len(self.absent)} of {self.total} present."]
    if self.repeated:
      lines.append(
        f"{self.repeated} further captions of the same clips unused."
      )
    if self.absent:
      lines.append(f"Not there, for example: {', '.join(self.absent[:3])}.")
    return " ".join(lines)


def join(annotations: Iterable[Annotation], folder: epath.PathLike) -> Joined:
  """Returns a row for every annotation whose clip is in the folder.

  A name fits a file if either path ends with the other, ignoring suffixes; if
  several files fit, a video comes before a sound. If a clip has several
  captions, the first is taken, unless they describe segments of it.

  Raises:
    ValueError: no clip in the folder, a row that captions cannot have, or
      different names that fit one clip.
  """
  clips = [file.name for file in list_clip_files(folder) if not file.problem]
  find = _make_finder(clips)
  rows, taken, absent, repeated = [], set(), [], 0
  owners: dict[str, str] = {}
  for files, captions in annotations:
    found = next(filter(None, map(find, files)), None)
    row = {"file": found} | dict(captions)
    times = [str(row.get(key)) for key in TIMES]
    if found is not None:
      try:
        checked = check_row(row)
      except ValueError as error:
        raise ValueError(f"The annotation of {files[0]}: {error}") from error
      times = [checked[key] for key in TIMES]
      _check_one(owners.setdefault(found, files[0]), files[0], found)
    key = found or files, *times
    if key in taken:
      repeated += 1
      continue
    taken.add(key)
    if found is None:
      absent.append(files[0])
    else:
      rows.append(row)
  return Joined(rows, len(taken), repeated, absent)


def _check_one(first: str, name: str, clip: str) -> None:
  """Raises ValueError if two names that fit a clip are of different ones."""
  paths = (without_suffix(posixpath.normpath(x)) for x in (first, name))
  if len({*paths}) > 1:
    raise ValueError(
      f"The annotations of {first} and of {name} both fit {clip}: keep the"
      " clips in folders as the annotations name them."
    )


def check_output(
  path: epath.PathLike, *inputs: epath.PathLike, force: bool
) -> None:
  """Raises ValueError or OSError if captions.jsonl may not be written."""
  check_apart(path, *inputs)
  if check_file(path).exists() and not force:
    raise ValueError(
      f"{path} exists: choose another --output, or replace it with --force."
    )


def write_rows(path: epath.PathLike, rows: Sequence[dict[str, Any]]) -> None:
  """Writes captions.jsonl."""
  lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
  with replacing(path) as partial:
    partial.write_text("".join(lines), encoding="utf-8")


def _make_finder(clips: Sequence[str]) -> Callable[[str], str | None]:
  """Returns a function from the name in an annotation to a clip, or None."""
  # The last that is entered stays: sounds before videos, deep before shallow.
  sounds = SUFFIXES[SUFFIXES.index(".wav") :]
  ordered = sorted(
    clips, key=lambda x: (not x.lower().endswith(sounds), -x.count("/"), x)
  )
  whole = {_composed(without_suffix(name)): name for name in ordered}
  whole |= {_composed(name): name for name in ordered}
  ends = {end: name for path, name in whole.items() for end in _ends(path)}

  def find(name: str) -> str | None:
    name = posixpath.normpath(_composed(name).replace("\\", "/"))
    for each in (name, without_suffix(name)):
      if each in ends:
        return ends[each]
      if found := next(filter(None, map(whole.get, _ends(each))), None):
        return found
    return None

  return find


def _composed(name: str) -> str:
  """Returns a name in NFC; on some disks names are decomposed."""
  return unicodedata.normalize("NFC", name)


def _ends(path: str) -> Iterator[str]:
  """Yields "a/b/c", "b/c" and "c"."""
  parts = path.split("/")
  return ("/".join(parts[i:]) for i in range(len(parts)))

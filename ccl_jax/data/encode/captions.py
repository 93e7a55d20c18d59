"""The clips of a folder and their captions.

The media files of a folder and its subfolders are joined by file name with the
rows of `captions.jsonl` and similar files (`caption_files`) in any of these
folders. A clip a.mp4 without a row takes the text of a.txt beside it, if there
is one. A file may have several rows for its segments; each is a separate clip.
"""

import difflib
import itertools
import os
import posixpath
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from etils import epath

from ccl_jax.codecs.quotation import normalize_quotes
from ccl_jax.data.clip import is_image
from ccl_jax.data.encode.caption_files import (
  COLUMNS,
  Row,
  is_captions,
  read_rows,
  warn_of_unread,
)
from ccl_jax.data.encode.clip_files import (
  ClipFile,
  count_suffixes,
  find_clips,
  readable,
)
from ccl_jax.data.encode.folder import ListedFile
from ccl_jax.data.opening import SUFFIXES
from ccl_jax.storage import files, text_files
from ccl_jax.storage.tar_files import TarMember

_MAX_NAMES = 5  # in an error message


class Listing(NamedTuple):
  """The clips of a folder, and what belongs to none.

  `not_clips` is suffix -> number of files; `missing` has the files that have a
  caption and are not there.
  """

  clips: list[ClipFile]
  not_clips: Counter[str]
  missing: Sequence[str] = ()


def make_prompt(video: str = "", speech: str = "", audio: str = "") -> str:
  """Joins the captions to one text for both streams, the speech in quotes.

  Quotation marks within the captions become single ones: just `speech` is
  spoken.

  >>> make_prompt("A man waves.", "Hello there!", "Wind.")
  'A man waves. "Hello there!" Wind.'
  """
  video, speech, audio = (
    normalize_quotes(text).replace('"', "'").strip()
    for text in (video, speech, audio)
  )
  parts = (video, speech and f'"{speech}"', audio)
  return " ".join(part for part in parts if part)


def list_clips(
  folder: epath.PathLike,
  captions: epath.PathLike | None = None,
  strict: bool = False,
  images: bool = False,
) -> Listing:
  """Returns the clips of a folder in order of name, with captions or "".

  Args:
    captions: a file; None uses those of the folder and its subfolders, if any.
    strict: refuse captions of files that do not exist.
    images: still images are clips too.

  Raises:
    ValueError: no clips; captions that cannot be read, or that name a file
      twice, overlapping segments, or files that are not clips; or captions of
      which all files (with `strict`, any file) do not exist.
  """
  folder = epath.Path(folder)
  found, clips = find_clips(folder, images)
  others = sorted(found.keys() - set(clips))
  if captions is None:
    sources = _find_sources(folder, found, others)
  else:
    sources = {epath.Path(captions): ""}
  rows = _read_sources(folder, found, sources)
  _check_are_clips((rows.keys() & found.keys()) - set(clips), folder)
  missing = sorted(rows.keys() - found.keys())
  if missing and (strict or len(missing) == len(rows)):
    raise ValueError(_describe_missing(missing, folder, found))
  without = [x for x in clips if not any(map(_prompt, rows.get(x, ())))]
  sidecars = _find_sidecars(without, others)
  # In threads, as each is a slow request in a bucket.
  with ThreadPoolExecutor(16) as pool:
    paths = [found[x].path for x in sidecars.values()]
    texts = dict(zip(sidecars, pool.map(_read_line, paths), strict=True))
  used = {*sources, *(folder / name for name in sidecars.values())}
  return Listing(
    [
      ClipFile(
        found[name].path,
        readable(name),
        _prompt(row) or texts.get(name, ""),
        row["split"],
        found[name].problem,
        row["start"] or 0.0,
        None if row["end"] == "" else row["end"],
      )
      for name in clips
      for row in rows.get(name, [dict.fromkeys(COLUMNS, "")])
    ],
    count_suffixes([name for name in others if folder / name not in used]),
    missing,
  )


def _find_sources(
  folder: epath.Path, found: Mapping[str, ListedFile], others: Sequence[str]
) -> dict[epath.Path, str]:
  """Returns files of captions -> their folders; ValueError for two in one."""
  names = [
    name
    for name in others
    if is_captions(name) and not isinstance(found[name].path, TarMember)
  ]
  if not names:
    warn_of_unread(others)
  for base, count in Counter(map(posixpath.dirname, names)).items():
    if count > 1:
      own = [
        posixpath.basename(x) for x in names if posixpath.dirname(x) == base
      ]
      raise ValueError(
        f"{folder / base} has {' and '.join(own)}: keep one, or name it with"
        " --captions."
      )
  return {folder / name: posixpath.dirname(name) for name in names}


def _read_sources(
  folder: epath.Path,
  found: Collection[str],
  sources: Mapping[epath.Path, str],
) -> dict[str, list[Row]]:
  """Returns name -> rows, in order of their times.

  Args:
    found: the names of all files.
    sources: files of captions -> the folder that their rows are relative to.

  Raises:
    ValueError: a file that cannot be read, or a name that has two rows that
      are not of segments apart.
  """
  # Names are composed (NFC) on most systems and decomposed on some disks.
  by_nfc = {unicodedata.normalize("NFC", name): name for name in found}
  placed: dict[str, list[tuple[Row, str]]] = {}
  for path, base in sources.items():
    for place, row in read_rows(path):
      name = posixpath.join(base, row["file"])
      if name not in found:
        name = _relative(row["file"].strip(), folder, base)
      if name not in found:
        name = by_nfc.get(unicodedata.normalize("NFC", name), name)
      placed.setdefault(name, []).append((row, place))
  for name, own in placed.items():
    own.sort(key=lambda pair: pair[0]["start"] or 0.0)
    for before, after in itertools.pairwise(own):
      _check_apart(name, before, after)
  return {name: [row for row, _ in own] for name, own in placed.items()}


def _check_apart(
  name: str, before: tuple[Row, str], after: tuple[Row, str]
) -> None:
  """Raises ValueError if two rows of a file, in order, overlap."""
  (first, place), (row, later_place) = before, after
  if first["end"] != "" and first["end"] <= (row["start"] or 0.0):
    return
  if any(x["start"] == x["end"] == "" for x in (first, row)):
    raise ValueError(
      f"{later_place} names a file more than once: {name}, before at {place}."
    )
  raise ValueError(
    f"{later_place}: the segment of {name} from {row['start'] or 0} s overlaps"
    f" that from {first['start'] or 0} s to {first['end'] or 'its end'}"
    f" ({place})."
  )


def _relative(name: str, folder: epath.Path, base: str) -> str:
  """Returns a name as it was written in captions, relative to the folder.

  Args:
    base: the folder, below `folder`, of the file of captions.
  """
  if "\\" in name and "/" not in name:  # written on Windows
    name = name.replace("\\", "/")
  for absolute in (files.absolute(folder), os.path.abspath(folder)):
    if name.startswith(f"{os.fspath(absolute)}/"):
      base, name = "", name[len(os.fspath(absolute)) + 1 :]
  return posixpath.normpath(posixpath.join(base, name))


def _check_are_clips(names: set[str], folder: epath.Path) -> None:
  """Raises ValueError if there are any: `names` have captions, but no clip."""
  if names:
    raise ValueError(
      f"Captions name {len(names)} files in {folder} that are no clips"
      f" ({' '.join(SUFFIXES)}): {_join_some(sorted(names))}."
      + " Images are clips of one frame: give encode.buckets one such."
      * any(map(is_image, names))
    )


def _describe_missing(
  missing: list[str], folder: epath.Path, found: Collection[str]
) -> str:
  lower = {name.lower(): name for name in found}
  near = difflib.get_close_matches(missing[0].lower(), lower, n=1)
  hint = f" Did you mean {lower[near[0]]}?" if near else ""
  return (
    f"Captions name {len(missing)} files that are not in {folder}:"
    f" {_join_some(missing)}.{hint}"
  )


def _prompt(row: Row) -> str:
  return row["text"] or make_prompt(row["video"], row["speech"], row["audio"])


def _find_sidecars(
  clips: Sequence[str], others: Sequence[str]
) -> dict[str, str]:
  """Returns clip -> the .txt file of the same name beside it."""

  def key(name: str) -> str:
    return unicodedata.normalize("NFC", posixpath.splitext(name)[0])

  texts = {key(x): x for x in others if x.lower().endswith(".txt")}
  return {name: texts[key(name)] for name in clips if key(name) in texts}


def _read_line(path: os.PathLike) -> str:
  return " ".join(text_files.read_text(path).split())


def _join_some(names: list[str]) -> str:
  more = len(names) - _MAX_NAMES
  text = ", ".join(names[:_MAX_NAMES])
  return text + (f" and {more} more" if more > 0 else "")

"""The clips of a folder and their captions.

Media files of a folder and its subfolders, joined by file name with
`captions.jsonl` (one object a line) or a CSV with the same columns:

  file     relative to the folder, required
  video    visible content         audio   other sound
  speech   spoken words            split   such as "train" or "test"
"""

import csv
import io
import json
from collections import Counter
from typing import NamedTuple

from etils import epath

from ccl_jax import files

SUFFIXES = (".mp4", ".mov", ".webm", ".mkv", ".wav", ".flac", ".mp3")
_MAX_NAMES = 5  # in an error message


class ClipFile(NamedTuple):
  """One media file; `name` is its path relative to the folder."""

  path: epath.Path
  name: str
  caption: str = ""
  split: str = ""


def make_prompt(video: str = "", speech: str = "", audio: str = "") -> str:
  """Joins the captions to one text for both streams, the speech in quotes.

  >>> make_prompt("A man waves.", "Hello there!", "Wind.")
  'A man waves. "Hello there!" Wind.'
  """
  speech = speech.strip().replace('"', "'")
  parts = (video.strip(), speech and f'"{speech}"', audio.strip())
  return " ".join(part for part in parts if part)


def list_clips(
  folder: epath.PathLike, captions: epath.PathLike | None = None
) -> list[ClipFile]:
  """Returns the clips of a folder in order of name, with captions or "".

  captions: a .jsonl or .csv file; None uses the folder's captions.jsonl or
    captions.csv, and no captions if there is neither.

  Raises:
    ValueError: no clips; captions that cannot be read, that name a file twice
      or that name files which do not exist.
  """
  folder = epath.Path(folder)
  found = files.file_sizes(folder) if folder.is_dir() else {}
  names = sorted(name for name in found if name.lower().endswith(SUFFIXES))
  if not names:
    raise ValueError(f"No clips ({' '.join(SUFFIXES)}) in {folder}.")
  rows = _read_captions(_captions_path(folder, captions))
  missing = sorted(rows.keys() - set(names))
  if missing:
    raise ValueError(
      f"Captions name {len(missing)} files that are not in {folder}:"
      f" {_join_some(missing)}."
    )
  return [ClipFile(folder / name, name, **rows.get(name, {})) for name in names]


def _captions_path(folder, captions) -> epath.Path | None:
  if captions is not None:
    return epath.Path(captions)
  defaults = (folder / "captions.jsonl", folder / "captions.csv")
  return next((path for path in defaults if path.is_file()), None)


def _read_captions(path: epath.Path | None) -> dict[str, dict[str, str]]:
  """Returns file -> caption and split."""
  if path is None:
    return {}
  readers = {".jsonl": _read_jsonl, ".csv": _read_csv}
  if path.suffix not in readers:
    raise ValueError(f"{path}: captions must be one of {sorted(readers)}.")
  if not path.is_file():
    raise ValueError(f"{path}: no such captions file.")
  rows = [
    _check_row(row, f"{path}:{line}")
    for line, row in readers[path.suffix](path)
  ]
  counts = Counter(row["file"] for row in rows)
  twice = [name for name, count in counts.items() if count > 1]
  if twice:
    raise ValueError(f"{path} names files more than once: {_join_some(twice)}.")
  return {
    row["file"]: {
      "caption": make_prompt(row["video"], row["speech"], row["audio"]),
      "split": row["split"],
    }
    for row in rows
  }


def _read_jsonl(path):
  for line, text in enumerate(path.read_text().split("\n"), 1):
    if text.strip():
      try:
        yield line, json.loads(text)
      except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{line}: not JSON: {error}.") from error


def _read_csv(path):
  file = io.StringIO(path.read_text(), newline="")
  yield from enumerate(csv.DictReader(file), 2)


def _check_row(row, where: str) -> dict[str, str]:
  """Returns the five columns as strings; ValueError names the place."""
  if not isinstance(row, dict) or not row.get("file"):
    raise ValueError(f"{where}: expected a column 'file', got {row!r}.")
  columns = ("file", "video", "speech", "audio", "split")
  chosen = {name: row.get(name) or "" for name in columns}
  for name, value in chosen.items():
    if not isinstance(value, str):
      raise ValueError(f"{where}: '{name}' is {value!r}, expected a string.")
  return chosen


def _join_some(names: list[str]) -> str:
  more = len(names) - _MAX_NAMES
  text = ", ".join(names[:_MAX_NAMES])
  return text + (f" and {more} more" if more > 0 else "")

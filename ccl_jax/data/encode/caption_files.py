"""Files of captions -> rows of columns.

`captions.jsonl` (one object a line), `captions.csv` (cells separated by commas,
semicolons or tabs) or `captions.tsv`, in UTF-8, with the columns

  file     relative to the file's folder, required
  video    visible content         audio   other sound
  speech   spoken words            split   such as "train" or "test"
  text     the whole prompt, in place of video, speech and audio
  start    seconds in the file; the row describes the segment from start to
  end      end, which is a clip of its own

In `metadata.jsonl` and `metadata.csv`, the files of Hugging Face's data sets,
the first column is called `file_name`; their other columns are not read.
"""

import csv
import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from absl import logging
from etils import epath

from ccl_jax.config import suggest
from ccl_jax.storage import text_files

TIMES = ("start", "end")
COLUMNS = ("file", "video", "speech", "audio", "split", "text", *TIMES)
_ALIASES = {"file_name": "file", "caption": "text"}
_STEMS, _SUFFIXES = ("captions", "metadata"), (".jsonl", ".csv", ".tsv")
# Of files that people mean as captions too.
_OTHERS = (".json", ".parquet", ".xls", ".xlsx", ".yaml", ".yml")
_EXPECTED = (
  f"Captions must be one of {list(_SUFFIXES)}; python -m ccl_jax.captions"
  " --columns=... makes them of others."
)
_DELIMITERS = (",", ";", "\t")
_TEXTS = ("video", "speech", "audio")
# Splits are parts of file names.
_SPLIT, _MAX_SPLIT = re.compile(r"\w[\w .-]*"), 100
# Times are numbers; of what a row lacks the value is "".
Row = dict[str, str | float]


def is_captions(name: str) -> bool:
  """Returns whether a path is one of a file of captions."""
  path = epath.Path(name.lower())
  return path.stem in _STEMS and path.suffix in _SUFFIXES


def warn_of_unread(names: Iterable[str]) -> None:
  """Warns of files among these that may be meant as captions."""
  for name in names:
    path = epath.Path(name.lower())
    if path.stem == "captions" and path.suffix in _OTHERS:
      logging.warning("%s is not read. %s", name, _EXPECTED)


def read_rows(path: epath.PathLike) -> list[tuple[str, Row]]:
  """Returns the rows, with all of `COLUMNS`, and the place of each.

  Raises:
    ValueError: a file that cannot be read as text, or a row that has cells too
      many or too few, unknown columns, no file or an impossible split.
  """
  path = epath.Path(path)
  if path.suffix.lower() not in _SUFFIXES:
    raise ValueError(f"{path}: {_EXPECTED}")
  if not path.is_file():
    raise ValueError(f"{path}: no such captions file.")
  is_jsonl = path.suffix.lower() == ".jsonl"
  read = text_files.read_objects if is_jsonl else read_csv
  is_ours = path.stem.lower() != "metadata"
  known = {*COLUMNS, *_ALIASES} - (set() if is_ours else {*TIMES})
  rows, unread = [], set()
  for line, row in read(path):
    try:
      row = text_files.unique_keys([(k.strip(), x) for k, x in row.items()])
      unread |= row.keys() - known
      if is_ours and unread:
        raise ValueError(_unknown(*sorted(unread)))
      row = {key: row[key] for key in row if key in known}
      rows.append((f"{path}:{line}", check_row(row)))
    except ValueError as error:
      raise ValueError(f"{path}:{line}: {error}") from error
  if unread:
    logging.warning(
      "%s: some columns are not read. %s", path, _unknown(*sorted(unread))
    )
  return rows


def read_csv(
  path: epath.PathLike,
  delimiter: str | None = None,
  header: Sequence[str] | None = None,
) -> Iterator[tuple[int, dict[str, str]]]:
  """Yields the rows of a table, and the line on which each begins.

  Args:
    delimiter: what separates cells; None finds it.
    header: names of the columns of a table whose first row has none.

  Raises:
    ValueError: a table that cannot be read; the message has the place.
  """
  text = text_files.read_text(path)
  try:
    records = _split_cells(text, delimiter)
    names = header or next(records, (0, []))[1]
    for name in filter(None, names):
      if names.count(name) > 1:
        raise ValueError(f"1: duplicate column '{name}'.")
    for line, cells in records:
      if len(cells) != len(names):
        raise ValueError(
          f"{line}: {len(cells)} cells, expected {len(names)}:"
          f" {', '.join(names)}. A cell that holds a comma (or what else"
          ' separates cells) must stand in quotation marks, "like, this".'
        )
      named = zip(names, cells, strict=True)
      yield line, {name: cell for name, cell in named if name or cell}
  except ValueError as error:
    raise ValueError(f"{path}:{error}") from error


def _split_cells(
  text: str, delimiter: str | None
) -> Iterator[tuple[int, list[str]]]:
  """Yields the cells of each record, and the line on which it begins."""
  # Excel's way to name the delimiter.
  declared = None if delimiter else re.match(r"sep=(.)\r?\n", text)
  delimiter = declared[1] if declared else delimiter or _find_delimiter(text)
  start = 1
  reader = csv.reader(
    io.StringIO(text, newline=""),
    delimiter=delimiter,
    skipinitialspace=True,
    strict=True,
  )
  try:
    for cells in reader:
      cells = [cell.strip() for cell in cells]
      if any(cells) and not (declared and start == 1):
        yield start, cells
      start = reader.line_num + 1
  except csv.Error as error:
    raise ValueError(f"{start}: {error}.") from error


def _find_delimiter(text: str) -> str:
  """Returns the one that finds the most known columns in the first line."""
  header = re.split(r"[\r\n]", text.strip(), maxsplit=1)[0]
  known = {*COLUMNS, *_ALIASES}

  def count(delimiter: str) -> int:
    return len({x.strip(' "') for x in header.split(delimiter)} & known)

  return max(_DELIMITERS, key=count)


def check_row(row: Mapping[str, Any]) -> Row:
  """Returns all columns; ValueError says what is wrong."""
  chosen: Row = dict.fromkeys(COLUMNS, "")
  for key, value in row.items():
    column = _ALIASES.get(key, key)
    if column not in COLUMNS or value is None:
      continue
    if column in TIMES:
      chosen[column] = _check_time(key, value)
      continue
    if not isinstance(value, str):
      raise ValueError(f"'{key}' is {value!r}, expected a string.")
    if chosen[column]:
      raise ValueError(f"'{column}' and '{key}' are the same column.")
    # A file's name may begin with a space: who looks for it decides.
    chosen[column] = value if column == "file" else value.strip()
    try:
      value.encode()
    except UnicodeEncodeError as error:
      raise ValueError(f"'{key}' has half a character: {value!r}.") from error
  if not chosen["file"].strip():
    raise ValueError(f"expected a column 'file', got {dict(row)!r}.")
  if chosen["text"] and any(chosen[name] for name in _TEXTS):
    raise ValueError(
      "'text' is the whole prompt, so video, speech and audio must be empty."
    )
  if chosen["end"] != "" and chosen["end"] <= (chosen["start"] or 0):
    raise ValueError(
      f"the segment ends at {chosen['end']} s, expected after its start at"
      f" {chosen['start'] or 0} s."
    )
  _check_split(chosen["split"])
  return chosen


def _check_time(key: str, value: Any) -> float | str:
  """Returns seconds, "" for an empty cell; ValueError for anything else."""
  if isinstance(value, str) and not value.strip():
    return ""
  try:
    seconds = math.nan if isinstance(value, bool) else float(value)
  except (OverflowError, TypeError, ValueError):
    seconds = math.nan
  if not 0 <= seconds < math.inf:
    raise ValueError(f"'{key}' is {value!r}, expected seconds from 0 on.")
  return seconds


def _check_split(split: str) -> None:
  """Raises ValueError if a split cannot be part of a file's name."""
  is_plain = not split or _SPLIT.fullmatch(split)
  if not is_plain or len(split.encode()) > _MAX_SPLIT:
    raise ValueError(
      f"the split {split!r} is no plain file name: expected letters, digits,"
      f" _, - or dots, at most {_MAX_SPLIT} bytes."
    )


def _unknown(*keys: str) -> str:
  """Returns a message about columns, with the nearest known ones."""
  known = [*COLUMNS, *_ALIASES]
  texts = (f"Unknown column '{key}'.{suggest(key, known)}" for key in keys)
  return (
    f"{' '.join(texts)} Known columns: {', '.join(COLUMNS)}; file_name is file,"
    " and caption is text."
  )

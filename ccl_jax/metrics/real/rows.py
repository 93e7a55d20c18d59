"""Scores of clips on disk, one line of JSON each, appended while measuring.

A row has the clip's `file`, `sha256`, `caption`, `seconds` and `size`, its
`scores` (metric -> name -> value) and, for metrics without a value, why
(`not_measured`: metric -> reason). Of a segment, `file` and `sha256` end with
its times, #t=START,END. Features are arrays in a folder beside it.
"""

import json
import pathlib
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np

from ccl_jax.storage.files import replacing
from ccl_jax.storage.text_files import read_lines

Row = dict[str, Any]
FAILED = "failed: "  # begins the reason of what is tried again


class RowFile:
  """The rows of a folder of clips; those of an interrupted run are kept.

  Args:
    path: of the file.
    stale: metrics whose scores are dropped.

  Raises:
    ValueError: the file has something else.

  Attributes:
    rows: name of a clip -> row.
  """

  def __init__(self, path: pathlib.Path, stale: Collection[str] = ()):
    self._path, self._stale = path, stale
    self._partial = path.with_name(f".{path.name}.partial")
    self.rows: dict[str, Row] = {}
    for file in (self._path, self._partial):
      self.rows |= {row["file"]: row for row in _read(file)}

  def reuse(self, name: str, sha256: str, caption: str) -> Row:
    """Returns a clip's row with what is still true.

    Scores of another file or caption are dropped, and so are failures.
    """
    row: Row = {"file": name, "sha256": sha256, "caption": caption}
    old = self.rows.get(name, {})
    if all(old.get(key) == value for key, value in row.items()):
      row = dict(old)
    scores, reasons = row.get("scores", {}), row.get("not_measured", {})
    row["scores"] = {k: x for k, x in scores.items() if k not in self._stale}
    row["not_measured"] = {
      k: text
      for k, text in reasons.items()
      if k not in self._stale and not text.startswith(FAILED)
    }
    return row

  def add(self, row: Row) -> None:
    """Appends a row, in place of the clip's old one."""
    self.rows[row["file"]] = row
    self._path.parent.mkdir(parents=True, exist_ok=True)
    with self._partial.open("a") as file:
      file.write(json.dumps(row, sort_keys=True, allow_nan=False) + "\n")

  def finish(self, names: Iterable[str]) -> list[Row]:
    """Writes the rows of the named clips, in this order, and returns them."""
    rows = [self.rows[name] for name in names if name in self.rows]
    text = "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows)
    with replacing(self._path) as partial:
      partial.write_text(text)
    self._partial.unlink(missing_ok=True)
    return rows


class Features:
  """Arrays of clips in a folder, named by the clip's contents."""

  def __init__(self, folder: pathlib.Path):
    self._folder = folder

  def has(self, metric: str, sha256: str) -> bool:
    """Returns whether a clip's features are there."""
    return self._path(metric, sha256).exists()

  def save(self, metric: str, sha256: str, features: np.ndarray) -> None:
    """Writes a clip's features."""
    path = self._path(metric, sha256)
    with replacing(path) as partial, partial.open("wb") as file:
      np.save(file, features)

  def load(self, metric: str, rows: Iterable[Row]) -> np.ndarray:
    """Returns the features of the rows that the metric has measured."""
    measured = [row for row in rows if metric in row["scores"]]
    paths = [self._path(metric, row["sha256"]) for row in measured]
    return np.array([np.load(path, allow_pickle=False) for path in paths])

  def _path(self, metric: str, sha256: str) -> pathlib.Path:
    return self._folder / metric / f"{sha256}.npy"


def _read(path: pathlib.Path) -> list[Row]:
  """Returns the complete lines of a file; the last may be cut short.

  Raises:
    ValueError: lines of something else, as of the scores of `filter`.
  """
  if not path.exists():
    return []
  rows = []
  for line in read_lines(path):
    try:
      row = json.loads(line)
    except json.JSONDecodeError:
      continue
    if not isinstance(row, dict) or not {"file", "sha256"} <= row.keys():
      raise ValueError(
        f"'{path}' is not of ccl_jax.measure, which would replace it: choose"
        " another --output."
      )
    rows.append(row)
  return rows

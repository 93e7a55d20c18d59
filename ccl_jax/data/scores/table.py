"""Scores the files of a folder in several processes, into scores.jsonl.

Rows are appended to FILE.partial as they come, and FILE appears when all are
there. A second run scores only files that are new, or whose size, time of
change or `max_seconds` differs.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from etils import epath
from tqdm import tqdm

from ccl_jax.data import media
from ccl_jax.data.encode.clip_files import ClipFile, list_clip_files
from ccl_jax.data.encode.decode_pool import DecodePool
from ccl_jax.data.scores import expression
from ccl_jax.data.scores.duplicates import find_duplicates
from ccl_jax.data.scores.measures import NAMES, Scores, score_file
from ccl_jax.storage import files, text_files
from ccl_jax.storage.tar_files import TarMember

FILE = "scores.jsonl"
# What a condition may name, besides what a file of scores has.
_NUMBERS = (
  "bytes", *(x for x in NAMES if not x.endswith("_hash")), "duplicate"
)  # fmt: skip
_OTHERS = {
  "modified", "max_seconds", "file", "error", "picture_hash", "sound_hash",
  "duplicate_of",
}  # fmt: skip


def score_folder(
  folder: epath.PathLike,
  output: epath.PathLike,
  *,
  num_workers: int = 2,
  max_seconds: float = 60.0,
  force: bool = False,
) -> dict[str, Scores]:
  """Scores every clip and image of a folder; writes them, and returns them.

  Args:
    output: scores.jsonl; files that it has already are not scored again.
    num_workers: processes; 0 scores in this one.
    max_seconds: of each clip that are looked at.
    force: score all again.

  Raises:
    ValueError: no clips, or an output that holds something else.
  """
  output = epath.Path(output)
  partial = output.with_name(f"{output.name}.partial")
  clip_files = list_clip_files(folder, images=True)
  stamps = {
    file.name: _stamp(file) | {"max_seconds": max_seconds}
    for file in clip_files
  }
  files.check_file(output)
  done = _read(output)
  _check_own(output, done)
  old = {} if force else done | _read(partial, is_cut=True)
  rows = {
    name: row
    for name, row in old.items()
    if name in stamps and stamps[name].items() <= row.items()
  }
  todo = [file for file in clip_files if file.name not in rows]
  output.parent.mkdir(parents=True, exist_ok=True)
  pool = DecodePool(num_workers, read=score_file, max_seconds=max_seconds)
  mode = "w" if force else "a"
  named = files.naming_errors(partial)
  with pool, named, partial.open(mode) as lines:
    lines.write("\n")  # ends a line that was cut
    bar = tqdm(
      pool(todo), "scoring", len(clip_files), initial=len(rows), unit=" clips"
    )
    for file, scores in bar:
      if isinstance(scores, media.ClipError):
        scores = {"error": str(scores)} | dict.fromkeys(NAMES)
      row = {"file": file.name} | stamps[file.name] | scores
      rows[file.name] = row
      lines.write(json.dumps(row) + "\n")
      lines.flush()
  _write(output, rows)
  partial.unlink()
  return rows


def read_scores(path: epath.PathLike) -> dict[str, Scores]:
  """Returns name -> scores; ValueError if there is no such file."""
  path = epath.Path(path)
  if not path.is_file():
    raise ValueError(
      f"{path}: no such scores. Make them with python -m ccl_jax.filter."
    )
  return _read(path)


def parse_condition(
  condition: str, names: Iterable[str] = ()
) -> Callable[[Scores], bool]:
  """Returns `expression.parse` of a condition on our scores, or `names`."""
  return expression.parse(condition, {*_NUMBERS, *names} - _OTHERS)


def keep(
  clip_files: list[ClipFile], condition: str, scores: Mapping[str, Scores]
) -> list[ClipFile]:
  """Returns the clips whose scores meet the condition.

  Raises:
    ValueError: a condition that cannot be read, a clip without scores, or no
      clip with the score `lufs` that it names.
  """
  names = {name for row in scores.values() for name in row}
  is_kept = parse_condition(condition, names)
  missing = [file.name for file in clip_files if file.name not in scores]
  if missing:
    raise ValueError(
      f"{len(missing)} clips have no scores, such as {missing[0]}: score them"
      " with python -m ccl_jax.filter."
    )
  found = [row["lufs"] for row in scores.values() if row.get("has_audio")]
  if "lufs" in condition and found and all(x is None for x in found):
    raise ValueError(
      "No clip has the score 'lufs': pip install pyloudnorm, and score again"
      " with python -m ccl_jax.filter --force."
    )
  return [file for file in clip_files if is_kept(scores[file.name])]


def _write(output: epath.Path, rows: Mapping[str, Scores]) -> None:
  found = find_duplicates(rows)
  with files.replacing(output) as partial, partial.open("w") as lines:
    for name in sorted(rows):
      rows[name]["duplicate"] = int(name in found)
      rows[name]["duplicate_of"] = found.get(name)
      lines.write(json.dumps(rows[name]) + "\n")


def _read(path: epath.Path, is_cut: bool = False) -> dict[str, Any]:
  """Returns name -> row, {} if there is no file.

  ValueError for a line that is no row of scores, unless the file `is_cut`.
  """
  rows = {}
  lines = text_files.read_lines(path) if path.exists() else ()
  for number, line in enumerate(lines, 1):
    if not line.strip():
      continue
    try:
      row = text_files.parse_object(line)
      rows[row["file"]] = row
    except (KeyError, ValueError) as error:
      if not is_cut:
        raise ValueError(f"{path}:{number}: no scores ({error}).") from error
  return rows


def _check_own(path: epath.Path, rows: Mapping[str, Scores]) -> None:
  """Raises ValueError if rows are not those that `score_folder` writes."""
  if not all("bytes" in row for row in rows.values()):
    raise ValueError(
      f"'{path}' is not of ccl_jax.filter, which would replace it: choose"
      " another --output."
    )


def _stamp(file: ClipFile) -> dict[str, int | None]:
  """Returns by what a file's change is seen; a tar's members have no time."""
  if file.problem:
    return {"bytes": -1, "modified": None}
  if isinstance(file.path, TarMember):
    return {"bytes": file.path.size, "modified": None}
  stat = file.path.stat()
  return {"bytes": stat.length, "modified": stat.mtime}

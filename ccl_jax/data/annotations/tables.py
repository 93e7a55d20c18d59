"""Tables of annotations: CSV, JSON, JSON lines and Parquet -> rows."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from etils import epath

from ccl_jax.config import suggest
from ccl_jax.data.encode.caption_files import read_csv
from ccl_jax.storage import files, text_files

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
Row = dict[str, Any]
_KINDS = {dict: "an object, {...}", list: "a list, [...]", str: "a string"}
_T = TypeVar("_T")


def number_rows(
  path: epath.PathLike, header: Sequence[str] | None = None
) -> Iterator[tuple[str, Row]]:
  """Yields the rows of a file of one of `SUFFIXES`, after their places.

  Args:
    header: names of the columns of a CSV file without a header.

  Raises:
    ValueError: another kind of file, or one that cannot be read as its kind.
  """
  path = epath.Path(path)
  suffix = path.suffix.lower()
  allowed = SUFFIXES[:2] if header else SUFFIXES
  if suffix not in allowed:
    raise ValueError(f"{path}: annotations must be one of {' '.join(allowed)}.")
  if not path.is_file():
    raise ValueError(f"{path}: no such file of annotations.")
  if suffix == ".json":
    rows = _read_json_list(path)
  elif suffix == ".parquet":
    rows = _read_parquet(path)
  elif suffix == ".jsonl":
    rows = (row for _, row in text_files.read_objects(path))
  else:
    delimiter = "\t" if suffix == ".tsv" else ","
    rows = (row for _, row in read_csv(path, delimiter, header))
  for i, row in enumerate(rows, 1):
    yield f"{path}, row {i}", row


def read_json(path: epath.PathLike) -> Any:
  """Returns the value of a JSON file; ValueError if it holds none."""
  try:
    return json.loads(text_files.read_text(path))
  except (json.JSONDecodeError, RecursionError) as error:
    raise ValueError(f"{path}: not JSON ({error}).") from error


def read_object(path: epath.PathLike) -> dict[str, Any]:
  """Returns the object of a JSON file; ValueError if it holds none."""
  value = read_json(path)
  if not isinstance(value, dict):
    raise ValueError(
      f"{path}: expected an object, {{...}}, got a list or value."
    )
  return value


def need(row: Any, where: Any, *keys: str) -> list[Any]:
  """Returns the values of keys; ValueError if the row lacks one."""
  for key in keys:
    if not isinstance(row, Mapping) or key not in row:
      found = [*map(str, row)] if isinstance(row, Mapping) else [str(row)[:40]]
      raise ValueError(
        f"{where}: no column '{key}'.{suggest(key, found)} It has:"
        f" {', '.join(found) or 'none'}."
      )
  return [row[key] for key in keys]


def need_kind(kind: type[_T], value: Any, where: Any) -> _T:
  """Returns a value of a kind, empty for null; ValueError for another kind."""
  value = kind() if value is None else value
  if not isinstance(value, kind):
    raise ValueError(
      f"{where} is {str(value)[:40]!r}, expected {_KINDS[kind]}."
    )
  return value


def _read_json_list(path: epath.Path) -> Iterator[Row]:
  value = read_json(path)
  if not isinstance(value, list) or not all(isinstance(x, dict) for x in value):
    raise ValueError(f"{path}: expected a list of objects, [{{...}}, ...].")
  yield from value


def _read_parquet(path: epath.Path) -> Iterator[Row]:
  try:
    from pyarrow import ArrowException, parquet
  except ImportError as error:
    raise ValueError(f"{path}: Parquet needs pip install pyarrow.") from error
  with files.local_copy(path) as local:
    try:
      with parquet.ParquetFile(local) as file:
        # Media beside the text are never read.
        small = [
          f.name for f in file.schema_arrow if "binary" not in f"{f.type}"
        ]
        for batch in file.iter_batches(columns=small):
          yield from batch.to_pylist()
    except (ArrowException, OSError) as error:
      raise ValueError(f"{path}: not Parquet ({error}).") from error

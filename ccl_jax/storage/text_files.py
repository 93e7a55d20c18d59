"""Reads and writes text and JSON of users and of runs, as UTF-8."""

import codecs
import json
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath

from ccl_jax.storage.files import replacing
from ccl_jax.storage.tar_files import TarMember


def read_text(path: epath.PathLike, errors: str = "strict") -> str:
  """Returns the text of a UTF-8 file without its byte order mark.

  Args:
    errors: what becomes of other bytes, as in `bytes.decode`.

  Raises:
    ValueError: another encoding; the message names the file.
  """
  is_member = isinstance(path, TarMember)
  data = (path if is_member else epath.Path(path)).read_bytes()
  problem = text = ""
  try:
    text = data.decode("utf-8-sig", errors)
  except UnicodeDecodeError as error:
    line = data[: error.start].count(b"\n") + 1
    problem = (
      f"line {line} has the byte {data[error.start]:#x}, as in Latin-1 or"
      " Windows-1252"
    )
  if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
    problem = "it is UTF-16"
  elif "\0" in text and errors == "strict":
    problem = "it has bytes of zero, as in UTF-16"
  if problem:
    raise ValueError(
      f"'{os.fspath(path)}' is not UTF-8: {problem}. Save it as UTF-8."
    )
  return text


def read_lines(path: epath.PathLike, errors: str = "strict") -> list[str]:
  """Returns the lines of a UTF-8 file; see `read_text`.

  Only line feeds and carriage returns end a line: `str.splitlines` would also
  cut at U+2028 and others, which may stand in a JSON string.
  """
  text = read_text(path, errors).replace("\r\n", "\n").replace("\r", "\n")
  return text.split("\n")


def read_unchecked_lines(path: epath.PathLike) -> list[str]:
  """Returns lines as `read_lines`, but `check_line` may refuse some of them.

  Raises:
    ValueError: UTF-16, which affects all lines.
  """
  return read_lines(path, "surrogateescape")


def check_line(line: str) -> None:
  """Raises ValueError if a line of `read_unchecked_lines` is not UTF-8."""
  escaped = re.search("[\udc80-\udcff]", line)
  byte = ord(escaped[0]) - 0xDC00 if escaped else 0
  if escaped or "\0" in line:
    raise ValueError(
      f"it has the byte {byte:#x}, which is not of a UTF-8 text. Save it as"
      " UTF-8."
    )


def parse_object(text: str) -> dict[str, Any]:
  """Parses a JSON object; ValueError for others, or if a key is there twice."""
  try:
    value = json.loads(text, object_pairs_hook=unique_keys)
  except json.JSONDecodeError as error:
    raise ValueError(f"not JSON ({error}).") from error
  except RecursionError as error:
    raise ValueError("not JSON that can be read: nested too deeply.") from error
  if not isinstance(value, dict):
    raise ValueError(f"expected an object, {{...}}, got {str(value)[:40]}.")
  return value


def unique_keys(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
  """Returns the pairs as a dict; ValueError if a key is there twice."""
  found = dict(pairs)
  if len(found) < len(pairs):
    keys = [key for key, _ in pairs]
    twice = next(key for key in keys if keys.count(key) > 1)
    raise ValueError(f"duplicate key '{twice}'.")
  return found


def read_objects(path: epath.PathLike) -> Iterator[tuple[int, dict[str, Any]]]:
  """Yields (line, object) of JSON Lines; ValueError that names a bad line."""
  for line, text in enumerate(read_lines(path), 1):
    if text.strip():
      try:
        yield line, parse_object(text)
      except ValueError as error:
        raise ValueError(f"{path}:{line}: {error}") from error


def read_json(path: epath.PathLike) -> dict[str, Any]:
  """Returns the object of a JSON file; ValueError that names it if none."""
  try:
    return parse_object(read_text(path))
  except ValueError as error:
    raise ValueError(
      f"'{os.fspath(path)}' cannot be read: {error} Is the copy complete?"
    ) from error


def write_json(path: epath.PathLike, value: Any) -> None:
  """Writes JSON with sorted keys; readers see the old file or the new one."""
  with replacing(path) as partial:
    partial.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")

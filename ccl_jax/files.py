"""Files that are either whole or absent, on disk or in a bucket.

Paths are `etils.epath.PathLike`: local ones, or `gs://bucket/name` (then gcsfs
must be installed). Libraries that know only local files work in both cases:
`replacing` gives them a local path to write, `local_copy` one to read.
"""

import contextlib
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from etils import epath


def is_remote(path: epath.PathLike) -> bool:
  """Whether a path names an object in a bucket."""
  return "://" in os.fspath(path)


def absolute(path: epath.PathLike) -> epath.Path:
  """The path from the root, as Orbax wants it; buckets have no other."""
  path = epath.Path(path)
  return path if is_remote(path) else path.resolve()


def require_space(path: pathlib.Path, needed: int) -> None:
  """Raises ValueError if the disk of a local path has fewer bytes left."""
  path.parent.mkdir(parents=True, exist_ok=True)
  free = shutil.disk_usage(path.parent).free
  if needed > free:
    raise ValueError(
      f"'{path}' needs up to {needed / 1e9:.1f} GB; its disk has"
      f" {free / 1e9:.1f} GB left."
    )


def sizes(folder: epath.PathLike) -> dict[str, int]:
  """Relative path -> bytes of every file below a folder."""
  folder = epath.Path(folder)
  found, pending = {}, [folder]
  with ThreadPoolExecutor(16) as pool:
    while pending:
      entries = [entry for path in pending for entry in path.iterdir()]
      # A request for each, which takes its time in a bucket.
      stats = list(pool.map(lambda path: path.stat(), entries))
      pending = []
      for entry, stat in zip(entries, stats, strict=True):
        if stat.is_directory:
          pending.append(entry)
        else:
          found[entry.relative_to(folder).as_posix()] = stat.length
  return found


@contextlib.contextmanager
def replacing(path: epath.PathLike) -> Iterator[pathlib.Path]:
  """Yields a temporary local path; what is made there becomes `path`.

  The caller writes a file or makes a directory. If the body raises, what was
  written is removed and `path` is as it was. An existing file is replaced; an
  existing directory is replaced only once the new one is complete.

  In a bucket a file appears whole. A directory appears file by file in the
  order of writing, so what is written last in it says that it is complete.
  """
  if is_remote(path):
    with _uploading(epath.Path(path)) as partial:
      yield partial
    return
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
  try:
    yield partial
    if path.is_dir():
      shutil.rmtree(path)
    os.replace(partial, path)
  finally:
    if partial.is_dir():
      shutil.rmtree(partial)
    partial.unlink(missing_ok=True)


def write_json(path: epath.PathLike, value: Any) -> None:
  """Writes JSON with sorted keys, as a whole file or not at all."""
  with replacing(path) as partial:
    partial.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


@contextlib.contextmanager
def local_copy(path: epath.PathLike) -> Iterator[pathlib.Path]:
  """Yields a local file with what `path` holds: itself, or a temporary copy."""
  if not is_remote(path):
    yield pathlib.Path(path)
    return
  with _scratch(path) as partial:
    with epath.Path(path).open("rb") as source, partial.open("wb") as target:
      shutil.copyfileobj(source, target)
    yield partial


@contextlib.contextmanager
def _uploading(path: epath.Path) -> Iterator[pathlib.Path]:
  with _scratch(path) as partial:
    yield partial
    files = [partial]
    if partial.is_dir():
      path.rmtree(missing_ok=True)
      files = [file for file in partial.rglob("*") if file.is_file()]
    for file in sorted(files, key=lambda file: file.stat().st_mtime_ns):
      target = path / file.relative_to(partial)
      with file.open("rb") as source, target.open("wb") as sink:
        shutil.copyfileobj(source, sink)


@contextlib.contextmanager
def _scratch(path: epath.PathLike) -> Iterator[pathlib.Path]:
  """A local path that keeps the name, for libraries that look at suffixes."""
  with tempfile.TemporaryDirectory() as folder:
    yield pathlib.Path(folder) / epath.Path(path).name

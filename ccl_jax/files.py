"""Files that are either whole or absent."""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """Yields a temporary sibling of `path` that takes its name at the end.

  The caller writes a file or makes a directory there. If the body raises, what
  was written is removed and `path` is as it was. An existing file is replaced;
  an existing directory is replaced only once the new one is complete.
  """
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

"""Every file below a folder of clips, and what cannot be read there."""

import os
from collections.abc import Iterator

from etils import epath

from ccl_jax import files


def list_files(folder: epath.PathLike) -> dict[str, str]:
  """Returns the relative path of every file -> why it cannot be read, or "".

  Links to folders are followed. What cannot be read is listed too: links to
  nothing or in a circle, pipes and devices, which a reader would wait for, and
  folders that may not be read or hold themselves by a link.
  """
  if files.is_remote(folder):
    return dict.fromkeys(files.file_sizes(folder), "")
  found = {}
  for path, problem in _walk(os.fspath(folder), ()):
    try:
      path.encode()
    except UnicodeEncodeError:
      problem = "has a name that is not UTF-8"
    found[os.path.relpath(path, folder)] = problem
  return found


def _walk(folder: str, above: tuple[str, ...]) -> Iterator[tuple[str, str]]:
  """Yields paths and problems; `above` are the real paths of its parents."""
  above = (*above, os.path.realpath(folder))
  try:
    entries = list(os.scandir(folder))
  except OSError as error:
    yield folder, error.strerror
    return
  for entry in entries:
    try:
      if entry.is_file():
        yield entry.path, ""
      elif not entry.is_dir():
        kind = "a link to nothing" if entry.is_symlink() else "no regular file"
        yield entry.path, f"is {kind}"
      elif _holds(os.path.realpath(entry.path), above):
        yield entry.path, "is a link to a folder that it is in"
      else:
        yield from _walk(entry.path, above)
    except OSError as error:  # a circle of links
      yield entry.path, error.strerror


def _holds(folder: str, paths: tuple[str, ...]) -> bool:
  """Returns whether the folder is one of the paths, or above one."""
  start = os.path.join(folder, "")
  return any(os.path.join(path, "").startswith(start) for path in paths)

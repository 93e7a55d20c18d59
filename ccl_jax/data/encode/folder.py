"""Lists the files below a folder of clips, and what cannot be read there."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from etils import epath

from ccl_jax.storage import files
from ccl_jax.storage.tar_files import SUFFIX, TarMember, list_members

_NOT_UTF8 = "has a name that is not UTF-8"


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
    problem = problem if _is_utf8(path) else _NOT_UTF8
    found[os.path.relpath(path, folder)] = problem
  return found


def _is_utf8(name: str) -> bool:
  try:
    name.encode()
  except UnicodeEncodeError:
    return False
  return True


def expand_tars(
  folder: epath.PathLike, found: dict[str, str]
) -> dict[str, TarMember]:
  """Puts the files in tars into a listing, in place of the tars.

  A tar that cannot be read, or not to its end, stays, with its problem. What is
  left out of a tar is listed with the reason.

  Args:
    folder: that is listed.
    found: from `list_files`; it is changed.

  Returns:
    name -> the file, of what is in a tar.
  """
  tars = [x for x in found if x.lower().endswith(SUFFIX) and not found[x]]
  members = {}
  with ThreadPoolExecutor(16) as pool:  # each waits for its disk
    paths = [epath.Path(folder) / name for name in tars]
    for name, inside in zip(tars, pool.map(list_members, paths), strict=True):
      members |= {f"{name}/{x}": file for x, file in inside.members.items()}
      found |= {f"{name}/{x}": why for x, why in inside.left_out.items()}
      found[name] = inside.problem
      if not inside.problem:
        del found[name]
  for name in members:
    found[name] = "" if _is_utf8(name) else _NOT_UTF8
  return members


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

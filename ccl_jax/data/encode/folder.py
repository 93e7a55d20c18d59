"""Lists the files below a folder of clips, and what cannot be read there."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from etils import epath

from ccl_jax.storage import files
from ccl_jax.storage.tar_files import SUFFIX, list_members


class ListedFile(NamedTuple):
  """A file below a folder, or in a tar there.

  Attributes:
    path: of what a tar leaves out, that of the tar.
    problem: why it cannot be read, or "".
  """

  path: os.PathLike
  problem: str


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
    found[os.path.relpath(path, folder)] = _name_problem(path) or problem
  return found


def list_with_tars(folder: epath.PathLike) -> dict[str, ListedFile]:
  """Returns relative path -> file, with the files in tars in place of these.

  c.mp4 in a/b.tar is a/b.tar/c.mp4. A tar that cannot be read, or not to its
  end, stays, with its problem. What is left out of a tar has the reason.
  """
  folder = epath.Path(folder)
  found = {
    name: ListedFile(folder / name, problem)
    for name, problem in list_files(folder).items()
  }
  tars = [
    name
    for name, file in found.items()
    if name.lower().endswith(SUFFIX) and not file.problem
  ]
  with ThreadPoolExecutor(16) as pool:  # each waits for its disk
    contents = pool.map(list_members, [found[name].path for name in tars])
    for name, inside in zip(tars, contents, strict=True):
      tar = found.pop(name)
      if inside.problem:
        found[name] = tar._replace(problem=inside.problem)
      for own, reason in inside.left_out.items():
        found[f"{name}/{own}"] = tar._replace(problem=reason)
      for own, member in inside.members.items():
        found[f"{name}/{own}"] = ListedFile(member, _name_problem(own))
  return found


def _name_problem(name: str) -> str:
  try:
    name.encode()
  except UnicodeEncodeError:
    return "has a name that is not UTF-8"
  return ""


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

"""Names files that are being written, and removes those of killed processes.

A file NAME is written as .NAME.HOST.PROCESS.partial beside its place. HOST is
the host and the container in which the process number is valid: on a disk that
several hosts share, each host removes only its own files.
"""

import contextlib
import functools
import hashlib
import os
import pathlib
import re
import shutil
import socket

_NAME = re.compile(r"\..+\.([0-9a-f]{8})\.([1-9]\d*)\.partial", re.DOTALL)


def make_path(path: pathlib.Path) -> pathlib.Path:
  """Returns where this process writes what becomes `path`; nothing is there.

  The first call for a folder removes what dead processes left in it.
  """
  _remove_leftovers(path.parent.absolute())
  partial = path.with_name(f".{path.name}.{_host()}.{os.getpid()}.partial")
  remove(partial)  # of an earlier process of the same number
  return partial


def remove(path: pathlib.Path) -> None:
  """Removes a file or folder, if it is there and can be removed."""
  with contextlib.suppress(OSError):  # a disk that is read-only
    shutil.rmtree(path) if path.is_dir() else path.unlink()


# Once for each: folders of results grow, and listing them takes time.
@functools.lru_cache(1024)
def _remove_leftovers(folder: pathlib.Path) -> None:
  with contextlib.suppress(OSError), os.scandir(folder) as entries:
    for entry in entries:
      match = _NAME.fullmatch(entry.name)
      if match and match[1] == _host() and not _is_alive(int(match[2])):
        remove(pathlib.Path(entry.path))


@functools.cache
def _host() -> str:
  """Returns a short name of the host and of its processes' numbers."""
  numbers = ""
  with contextlib.suppress(OSError):  # not on Linux
    numbers = os.readlink("/proc/self/ns/pid")  # a container has its own
  text = f"{socket.gethostname()} {numbers}"
  return hashlib.sha256(text.encode()).hexdigest()[:8]


def _is_alive(process: int) -> bool:
  """Returns whether a process of this number exists, of any user."""
  try:
    os.kill(process, 0)
  except (ProcessLookupError, OverflowError):
    return False
  except OSError:  # of another user
    pass
  return True

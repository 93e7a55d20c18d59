"""A folder for the uploads and results of one page."""

import contextlib
import fcntl
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

_PREFIX = "ccl_jax_page_"


@contextlib.contextmanager
def temporary_folder() -> Iterator[pathlib.Path]:
  """Yields a folder of this process, which is deleted at the end.

  A process that is killed deletes nothing: the next one does so at its start.
  A lock, which ends with its process, says which folders are in use.
  """
  _delete_leftovers()
  folder = pathlib.Path(tempfile.mkdtemp())
  lock = _lock(folder)
  try:
    # Only now has it the name that others look for.
    folder = folder.rename(folder.with_name(f"{_PREFIX}{folder.name}"))
    yield folder
  finally:
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)


def _delete_leftovers() -> None:
  for folder in pathlib.Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
    # Of another user, or in use.
    with contextlib.suppress(OSError):
      lock = _lock(folder)
      shutil.rmtree(folder, ignore_errors=True)
      os.close(lock)


def _lock(folder: pathlib.Path) -> int:
  """Locks a folder until its descriptor, which is returned, is closed."""
  lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
  try:
    if os.fstat(lock).st_uid != os.getuid():
      raise PermissionError(f"{folder} is another user's")
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError:
    os.close(lock)
    raise
  return lock

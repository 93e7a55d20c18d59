"""Files that are complete or absent, on disk or in a bucket.

Paths are `etils.epath.PathLike`: local paths, or `gs://bucket/name` (then gcsfs
must be installed). Libraries that know only local files work in both cases:
`replacing` yields a local path to write, `local_copy` a local path to read, and
`BucketMirror` has a local folder for files that grow.
"""

import contextlib
import errno
import glob
import logging
import os
import pathlib
import posixpath
import shutil
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Set
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from etils import epath

from ccl_jax.storage import partial_files
from ccl_jax.storage.tar_files import TarMember

MIRROR_SECONDS = 60.0  # between two copies of a `BucketMirror`


def is_remote(path: epath.PathLike) -> bool:
  """Returns whether a path names an object in a bucket."""
  return "://" in os.fspath(path)


def absolute(path: epath.PathLike) -> epath.Path:
  """Returns the absolute path, as Orbax requires; those of buckets are."""
  path = epath.Path(path)
  return path if is_remote(path) else path.resolve()


def check_folder(path: epath.PathLike) -> epath.Path:
  """Returns a folder for results, before the work for them; makes nothing.

  Raises:
    OSError: it cannot be made, or nothing can be written there.
  """
  path = epath.Path(path)
  if not is_remote(path):
    there = path.absolute()
    while not there.exists():
      there = there.parent
    if not there.is_dir():
      raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(there))
    if not os.access(there, os.W_OK | os.X_OK):
      raise OSError(errno.EACCES, "cannot be written", str(there))
  return path


def check_file(path: epath.PathLike) -> epath.Path:
  """Returns a file for results as `check_folder`; OSError if it is a folder."""
  path = epath.Path(path)
  if path.is_dir():
    raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
  check_folder(path.parent)
  return path


def check_apart(output: epath.PathLike, *inputs: epath.PathLike | None) -> None:
  """Checks that no input is lost when an output is replaced.

  An output inside an input may be: `check_new` keeps what is not an output.

  Raises:
    ValueError: the output is one of the inputs, or holds one.
  """
  place = _parts(output)
  for path in filter(None, inputs):
    if _parts(path)[: len(place)] == place:
      verb = "is" if _parts(path) == place else "holds"
      raise ValueError(
        f"--output={output} {verb} the input '{path}': choose another --output."
      )


def check_new(
  output: epath.PathLike, force: bool, is_own: Callable[[Set[str]], bool]
) -> None:
  """Raises ValueError if an output exists and may not be replaced.

  Args:
    force: one that the command wrote, or an empty folder, may be.
    is_own: from the names in a folder to whether the command wrote it.
  """
  if holds_other(output, is_own):
    raise ValueError(
      f"'{output}' exists, and this command did not write it: choose another"
      " --output."
    )
  if epath.Path(output).exists() and not force:
    raise ValueError(
      f"'{output}' exists: choose another --output, or replace it with --force."
    )


def holds_other(
  path: epath.PathLike, is_own: Callable[[Set[str]], bool]
) -> bool:
  """Returns whether something is there that is not `is_own` (`check_new`)."""
  path = epath.Path(path)
  if not path.is_dir():
    return path.exists()
  names = {each.name for each in path.iterdir()}
  return bool(names) and not is_own(names)


def require_space(path: pathlib.Path, needed: int) -> None:
  """Raises ValueError if the disk of a path has no `needed` bytes left."""
  path.parent.mkdir(parents=True, exist_ok=True)
  free = shutil.disk_usage(path.parent).free
  if needed > free:
    raise ValueError(
      f"'{path}' needs up to {needed / 1e9:.1f} GB; its disk has"
      f" {free / 1e9:.1f} GB left."
    )


def find(folder: epath.PathLike, pattern: str) -> list[epath.Path]:
  """Returns the files of a folder whose names match a pattern, sorted."""
  # epath would read brackets of the folder's own name as a pattern, too.
  return sorted(epath.Path(glob.escape(os.fspath(folder))).glob(pattern))


def file_sizes(folder: epath.PathLike) -> dict[str, int]:
  """Returns relative path -> bytes of every file below a folder."""
  folder = epath.Path(folder)
  found, pending = {}, [folder]
  with ThreadPoolExecutor(16) as pool:
    while pending:
      entries = [entry for path in pending for entry in path.iterdir()]
      # In threads, as each is a slow request in a bucket.
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
  """Yields a temporary local path; what is written there becomes `path`.

  The caller makes a file or a folder. If the body raises, it is removed and
  `path` is as it was; an existing one is replaced once the new one is complete.
  If the process is killed, the next one that writes in the folder removes it.

  In a bucket a file appears at once. A folder appears file by file in the order
  of writing, so the last file that is written marks it as complete.
  """
  if is_remote(path):
    with _uploading(epath.Path(path)) as partial:
      yield partial
    return
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = partial_files.make_path(path)
  try:
    with naming_errors(path, partial):
      yield partial
      if path.is_dir() and partial.is_dir():
        shutil.rmtree(path)
      os.replace(partial, path)
  finally:
    partial_files.remove(partial)


@contextlib.contextmanager
def naming_errors(
  path: epath.PathLike, partial: epath.PathLike | None = None
) -> Iterator[None]:
  """Adds a path to errors of the system that name none, such as a full disk.

  Libraries in C++ report a full disk by errors of their own.

  Args:
    partial: temporary file written in place of `path`; errors that name it are
      renamed too.
  """
  try:
    yield
  except OSError as error:
    unnamed = (None, None if partial is None else os.fspath(partial))
    if error.errno is None or error.filename not in unnamed:
      raise
    raise OSError(error.errno, error.strerror, os.fspath(path)) from error
  except (RuntimeError, ValueError) as error:
    text = os.strerror(errno.ENOSPC)
    if text not in str(error):
      raise
    raise OSError(errno.ENOSPC, text, os.fspath(path)) from error


def read_arrays(path: epath.PathLike) -> dict[str, np.ndarray]:
  """Returns the arrays of an .npz file, or that of an .npy file as "".

  Raises:
    ValueError: it is damaged, or has Python objects; the message names it.
  """
  try:
    with local_copy(path) as local, local.open("rb") as file:
      found = np.load(file, allow_pickle=False)
      if isinstance(found, np.ndarray):
        return {"": found}
      return {name: found[name] for name in found.files}
  except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
    raise ValueError(
      f"'{os.fspath(path)}' cannot be read as arrays. Is the copy complete?"
    ) from error


@contextlib.contextmanager
def local_copy(path: epath.PathLike) -> Iterator[pathlib.Path]:
  """Yields a local path as it is, or a temporary copy of a remote file.

  Of a file in a tar there is a temporary copy too.
  """
  is_member = isinstance(path, TarMember)
  if not is_member and not is_remote(path):
    yield pathlib.Path(path)
    return
  with _scratch(path) as partial:
    opened = path.open() if is_member else epath.Path(path).open("rb")
    with opened as source, partial.open("wb") as target:
      shutil.copyfileobj(source, target)
    yield partial


class BucketMirror:
  """A local folder whose files are copied to a bucket while they grow.

  Objects in a bucket cannot grow. Of a folder on disk nothing is copied.

  Attributes:
    local: the folder itself if it is on disk, else a temporary one.
  """

  def __init__(self, folder: epath.PathLike):
    self._folder = epath.Path(folder)
    self._scratch, self._copied = None, {}
    if is_remote(folder):
      self._scratch = tempfile.TemporaryDirectory()
    self.local = pathlib.Path(self._scratch.name if self._scratch else folder)
    self._copied_at = time.monotonic()

  def copy_if_due(self) -> None:
    """Copies if the last copy is `MIRROR_SECONDS` ago."""
    if time.monotonic() - self._copied_at >= MIRROR_SECONDS:
      self.copy()

  def copy(self) -> None:
    """Copies the files whose size has changed.

    A failure is a warning, and the next call tries again: a run should not end
    because its log could not be written.
    """
    self._copied_at = time.monotonic()
    if self._scratch is None:
      return
    for file in self.local.rglob("*"):
      size = file.stat().st_size
      if file.is_dir() or self._copied.get(file) == size:
        continue
      target = self._folder / file.relative_to(self.local).as_posix()
      try:
        target.write_bytes(file.read_bytes())
        self._copied[file] = size
      except Exception as error:  # Each bucket's library has its own types.
        logging.warning("Could not write '%s': %s", target, error)

  def close(self) -> None:
    """Copies for the last time, and removes the temporary folder."""
    self.copy()
    if self._scratch is not None:
      self._scratch.cleanup()


def _parts(path: epath.PathLike) -> list[str]:
  """Returns the parts of a path, on a disk those without links."""
  text = os.fspath(epath.Path(path))
  if is_remote(text):
    scheme, _, rest = text.partition("://")
    return [scheme, *posixpath.normpath(rest).split("/")]
  return [x for x in os.path.realpath(text).split(os.sep) if x]


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
  """Yields a temporary path with the same name, as libraries read suffixes."""
  with tempfile.TemporaryDirectory() as folder:
    yield pathlib.Path(folder) / epath.Path(path).name

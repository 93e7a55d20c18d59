"""A workdir to write to as if it were local, also where it is in a bucket."""

import logging
import pathlib
import tempfile
import time

from etils import epath

from ccl_jax.files import is_remote


class Mirror:
  """`local` is the workdir itself, or a temporary folder copied to the bucket.

  For files that grow, which objects in a bucket cannot do.

  Args:
    workdir: on disk or in a bucket.
    every: seconds between two copies.
  """

  def __init__(self, workdir: epath.PathLike, every: float = 60.0):
    self._workdir, self._every = epath.Path(workdir), every
    self._scratch, self._sizes = None, {}
    if is_remote(workdir):
      self._scratch = tempfile.TemporaryDirectory()
    self.local = pathlib.Path(
      self._scratch.name if self._scratch else self._workdir
    )
    self._copied_at = time.monotonic()

  def copy_if_due(self) -> None:
    """Copies when the last time is long ago."""
    if time.monotonic() - self._copied_at >= self._every:
      self.copy()

  def copy(self) -> None:
    """Copies the files whose size changed; on disk there is nothing to do.

    A failure is a warning, and the next call tries again: a run should not end
    for its log.
    """
    self._copied_at = time.monotonic()
    if self._scratch is None:
      return
    for file in self.local.rglob("*"):
      size = file.stat().st_size
      if file.is_dir() or self._sizes.get(file) == size:
        continue
      target = self._workdir / file.relative_to(self.local).as_posix()
      try:
        target.write_bytes(file.read_bytes())
        self._sizes[file] = size
      except Exception as error:  # each bucket's library has its own
        logging.warning("Could not write '%s': %s", target, error)

  def close(self) -> None:
    """The last copy; `local` of a bucket is gone."""
    self.copy()
    if self._scratch is not None:
      self._scratch.cleanup()

"""Decoding of many clips at once."""

import collections
import functools
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from ccl_jax.data import media
from ccl_jax.data.encode.captions import ClipFile

# A decoded clip, or the error that says why there is none.
DecodedClip = media.Clip | media.ClipError


class DecodePool:
  """Pool of processes that decode clips, in order.

  Only `buffer_size` decoded clips are in memory at a time.
  """

  def __init__(self, num_workers: int, buffer_size: int = 0, **arguments):
    """Makes a pool.

    Args:
      num_workers: processes; 0 decodes in this one.
      buffer_size: decoded clips that wait for the caller. At least four for
        each worker, which keeps the workers busy.
      arguments: of `read_or_error`.
    """
    self._num_workers = num_workers
    self._buffer_size = max(buffer_size, 4 * num_workers)
    self._read = functools.partial(read_or_error, **arguments)

  def __enter__(self) -> "DecodePool":
    # Not forked: a fork copies no threads, which JAX and codecs have.
    spawn = multiprocessing.get_context("spawn")
    workers = self._num_workers
    self._executor = workers and ProcessPoolExecutor(workers, spawn)
    return self

  def __exit__(self, *_) -> None:
    if self._executor:
      self._executor.shutdown(cancel_futures=True)

  def __call__(
    self, clip_files: Sequence[ClipFile]
  ) -> Iterator[tuple[ClipFile, DecodedClip]]:
    """Yields every file with its clip, or with the error of reading it."""
    if not self._executor:
      yield from ((file, self._read(file)) for file in clip_files)
      return
    pending = collections.deque()
    for file in clip_files:
      pending.append((file, self._executor.submit(self._read, file)))
      if len(pending) > self._buffer_size:
        yield self._next(pending)
    while pending:
      yield self._next(pending)

  def _next(self, pending: collections.deque) -> tuple[ClipFile, DecodedClip]:
    file, future = pending.popleft()
    try:
      return file, future.result()
    except BrokenProcessPool as error:
      suspects = [file.name, *(other.name for other, _ in pending)]
      raise ValueError(
        "A process that decodes clips died: out of memory, or at one of"
        f" {', '.join(suspects[: self._num_workers])}."
      ) from error


def read_or_error(
  clip_file: ClipFile, *, need_caption: bool, **arguments
) -> DecodedClip:
  """Reads a clip; returns the error if it cannot be used."""
  try:
    if need_caption and not clip_file.caption:
      raise media.ClipError(f"{clip_file.path}: has no caption")
    return media.read_clip(clip_file.path, **arguments)
  except media.ClipError as error:
    return error

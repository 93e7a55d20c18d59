"""Decoding of many clips at once."""

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from ccl_jax.data import media
from ccl_jax.data.clip import is_image
from ccl_jax.data.encode.clip_files import ClipFile
from ccl_jax.processes import pools

MAX_DEATHS = 8  # successive clips that end a process; fewer are left out
# A decoded clip, or the error that says why there is none.
DecodedClip = media.Clip | media.ClipError


class DecodePool:
  """Pool of processes that decode clips, in order.

  Only `buffer_size` decoded clips are in memory at a time.
  """

  def __init__(
    self,
    num_workers: int,
    buffer_size: int = 0,
    read: Callable[..., Any] | None = None,
    **arguments,
  ):
    """Makes a pool.

    Args:
      num_workers: processes; 0 decodes in this one.
      buffer_size: decoded clips that wait for the caller. At least four for
        each worker, which keeps the workers busy.
      read: called with each file; by default `read_or_error`.
      arguments: further arguments of `read`.
    """
    self._num_workers = num_workers
    self._buffer_size = max(buffer_size, 4 * num_workers)
    self._read = functools.partial(read or read_or_error, **arguments)
    self._deaths = 0

  def __enter__(self) -> "DecodePool":
    workers = self._num_workers
    self._executor = workers and pools.Pool(workers)
    return self

  def __exit__(self, *error) -> None:
    if self._executor:
      self._executor.__exit__(*error)

  def __call__(
    self, clip_files: Sequence[ClipFile]
  ) -> Iterator[tuple[ClipFile, Any]]:
    """Yields every file with its clip, or with the error of reading it."""
    if not self._executor:
      yield from ((file, self._read(file)) for file in clip_files)
      return
    pending = collections.deque()
    for file in clip_files:
      pending.append((file, self._submit(file)))
      if len(pending) > self._buffer_size:
        yield self._next(pending)
    while pending:
      yield self._next(pending)

  def _submit(self, file: ClipFile):
    try:
      return self._executor.submit(self._read, file)
    except BrokenProcessPool:
      return None  # `_next` makes a new pool when it is the file's turn

  def _next(self, pending: collections.deque) -> tuple[ClipFile, Any]:
    """Returns the first clip; those behind it are decoded meanwhile."""
    file, future = pending.popleft()
    try:
      if future is not None:
        return file, future.result()
    except BrokenProcessPool:
      pass
    clip = self._read_alone(file)
    self._executor.shutdown(cancel_futures=True)
    self._executor = pools.Pool(self._num_workers)
    for i, (other, old) in enumerate(pending):
      if old is None or not old.done() or old.cancelled() or old.exception():
        pending[i] = other, self._submit(other)
    return file, clip

  def _read_alone(self, file: ClipFile) -> Any:
    """Reads a clip in a separate process, as it may have ended the last one.

    Raises:
      ValueError: several such processes in a row died.
    """
    with pools.Pool(1) as alone:
      try:
        clip = alone.submit(self._read, file).result()
        self._deaths = 0
        return clip
      except BrokenProcessPool as error:
        self._deaths += 1
        problem = "the process that decodes it died"
        if self._deaths == MAX_DEATHS:
          raise ValueError(
            f"{file.name}: {problem}, as {self._deaths - 1} before it did: out"
            " of memory?"
          ) from error
        return media.ClipError(f"{problem}: damaged, or out of memory")


def read_or_error(
  clip_file: ClipFile, *, need_caption: bool, **arguments
) -> DecodedClip:
  """Reads a clip, or returns why it cannot be used (without its name)."""
  if clip_file.problem:
    return media.ClipError(clip_file.problem)
  if need_caption and not clip_file.caption:
    return media.ClipError("has no caption")
  if clip_file.shape:
    arguments |= dataclasses.asdict(clip_file.shape)
  try:
    if is_image(clip_file.name):
      image = media.read_image(clip_file.path, arguments["size"])
      return media.Clip(image[None], None)
    if clip_file.shape and clip_file.shape.frames == 1:
      # The sound of so short a time is none.
      arguments |= {"streams": ("video",)}
    return media.read_clip(clip_file.path, start=clip_file.start, **arguments)
  except media.ClipError as error:
    return media.ClipError(str(error).removeprefix(f"{clip_file.path}: "))
  # Whatever else a decoder raises, also MemoryError, costs this clip only.
  except Exception as error:
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return media.ClipError(f"cannot be decoded ({reason})")

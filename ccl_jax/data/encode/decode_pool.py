"""Decoding many clips at once."""

import collections
import functools
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from ccl_jax.data import media
from ccl_jax.data.encode import captions


class DecodePool:
  """Decodes clips, in several processes and in order.

  Calling it yields every source with its clip, or with the ClipError that says
  why there is none. Only a few clips are in memory at a time.
  """

  def __init__(self, workers: int, ahead: int = 0, **arguments):
    """What reads clips.

    Args:
      workers: processes, or 0 for this one.
      ahead: clips that wait, decoded, while the caller is busy; no fewer than
        keep the workers busy.
      arguments: of read_or_error.
    """
    self._workers, self._ahead = workers, max(ahead, 4 * workers)
    self._read = functools.partial(read_or_error, **arguments)

  def __enter__(self) -> "DecodePool":
    # Not forked: JAX and codecs have threads, which a fork would leave behind.
    spawn = multiprocessing.get_context("spawn")
    self._pool = self._workers and ProcessPoolExecutor(self._workers, spawn)
    return self

  def __exit__(self, *_) -> None:
    if self._pool:
      self._pool.shutdown(cancel_futures=True)

  def __call__(
    self, clips: Sequence[captions.ClipFile]
  ) -> Iterator[tuple[captions.ClipFile, media.Clip | media.ClipError]]:
    if not self._pool:
      yield from ((clip, self._read(clip)) for clip in clips)
      return
    pending = collections.deque()
    for clip in clips:
      pending.append((clip, self._pool.submit(self._read, clip)))
      if len(pending) > self._ahead:
        yield self._next(pending)
    while pending:
      yield self._next(pending)

  def _next(self, pending: collections.deque):
    source, future = pending.popleft()
    try:
      return source, future.result()
    except BrokenProcessPool as error:
      suspects = [source.name, *(s.name for s, _ in pending)]
      raise ValueError(
        "A process that decodes clips died: out of memory, or at one of"
        f" {', '.join(suspects[: self._workers])}."
      ) from error


def read_or_error(
  source: captions.ClipFile, *, need_caption: bool, **arguments
) -> media.Clip | media.ClipError:
  """A clip, or the reason why it cannot be used."""
  try:
    if need_caption and not source.caption:
      raise media.ClipError(f"{source.path}: has no caption")
    return media.read_clip(source.path, **arguments)
  except media.ClipError as error:
    return error

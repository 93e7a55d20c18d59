"""Pools of processes that end with the process that started them."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any

# What ends a whole group, as a terminal's Ctrl-C, is the parent's to handle.
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def end_with_parent() -> None:
  """Ends this process, whatever it does, as soon as its parent is gone.

  It gets a group of its own, so that signals to the parent's do not reach it.
  """
  os.setpgid(0, 0)
  for number in _SIGNALS:  # what came before is forgotten
    signal.signal(number, signal.SIG_IGN)
    signal.signal(number, signal.SIG_DFL)
  signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

  def wait() -> None:
    # Of a pipe, which the system closes when the parent dies.
    multiprocessing.parent_process().join()
    os._exit(1)

  threading.Thread(target=wait, name="parent", daemon=True).start()


class Pool(ProcessPoolExecutor):
  """A pool whose processes also end if this one is killed.

  They are not forked, as a fork loses the threads of JAX and of codecs. The end
  of a `with` block cancels work that they have not begun.
  """

  def __init__(self, num_workers: int):
    self._context = _Context()
    super().__init__(num_workers, self._context, end_with_parent)

  def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
    try:
      self.shutdown(cancel_futures=True)
    except RuntimeError:  # A signal came before the pool's thread had begun.
      if kind is None:
        raise
    finally:  # or while a process began that the pool does not know yet.
      for child in filter(_Process.is_alive, self._context.children):
        child.kill()
        child.join()


class _Process(SpawnProcess):
  def start(self) -> None:
    """Starts the process, which ignores signals until `end_with_parent`."""
    with _signals_held():
      super().start()


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
  """Holds signals back to its end: a process half started would complain."""
  before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
  handlers, received = {}, []
  # Another thread may get one, but handlers run in the main thread.
  if threading.current_thread() is threading.main_thread():
    found = {number: signal.getsignal(number) for number in _SIGNALS}
    handlers = {number: x for number, x in found.items() if callable(x)}
  for number in handlers:
    signal.signal(number, lambda number, _: received.append(number))
  try:
    yield
  finally:
    for number, handler in handlers.items():
      signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    for number in received:
      signal.raise_signal(number)


class _Context(SpawnContext):
  def __init__(self):
    self.children: list[_Process] = []

  def Process(self, *args: Any, **kwargs: Any) -> _Process:
    """Returns a new process of the pool."""
    self.children.append(_Process(*args, **kwargs))
    return self.children[-1]

"""Pools of processes that end with the process that started them."""

import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.context import SpawnContext, SpawnProcess

# What ends a whole group, as a terminal's Ctrl-C, is the parent's to handle.
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def make_pool(num_workers: int) -> ProcessPoolExecutor:
  """Returns a pool whose processes also end if this one is killed.

  They are not forked: a fork copies no threads, which JAX and codecs have. An
  error in a `with` block cancels what they have not begun.
  """
  return _Pool(num_workers, _Context(), end_with_parent)


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


class _Pool(ProcessPoolExecutor):
  def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
    try:
      self.shutdown(cancel_futures=kind is not None)
    except RuntimeError:  # A signal came before the pool's thread had begun.
      if kind is None:
        raise


class _Process(SpawnProcess):
  def start(self) -> None:
    """Starts the process, deaf to signals until `end_with_parent`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
      super().start()
    finally:
      signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Context(SpawnContext):
  Process = _Process

"""Pools of processes that end with the process that started them."""

import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor


def make_pool(num_workers: int) -> ProcessPoolExecutor:
  """Returns a pool whose processes also end if this one is killed.

  They are not forked: a fork copies no threads, which JAX and codecs have.
  """
  return ProcessPoolExecutor(
    num_workers, multiprocessing.get_context("spawn"), end_with_parent
  )


def end_with_parent() -> None:
  """Ends this process, whatever it does, as soon as its parent is gone.

  Ctrl-C, which a terminal sends to all, is the parent's to handle.
  """
  signal.signal(signal.SIGINT, signal.SIG_IGN)

  def wait() -> None:
    # Of a pipe, which the system closes when the parent dies.
    multiprocessing.parent_process().join()
    os._exit(1)

  threading.Thread(target=wait, name="parent", daemon=True).start()

"""Turns Ctrl-C and SIGTERM into errors, and ends a command after them."""

import os
import signal
import sys
import threading
from types import FrameType
from typing import NoReturn


def handle() -> None:
  """Makes Ctrl-C and SIGTERM raise KeyboardInterrupt and SystemExit(143).

  A command started in the background by a shell continues to ignore Ctrl-C.
  """
  signal.signal(signal.SIGTERM, _raise)
  if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
    signal.signal(signal.SIGINT, _raise)


def leave(code: int) -> NoReturn:
  """Ends the process at once; call it after `finally` and `with` blocks.

  At a normal exit, Python frees what threads of XLA may still use, which ended
  one of three interrupted compilations with a segmentation fault.
  """
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)


def _raise(number: int, frame: FrameType | None) -> None:
  """Raises the error of a signal, now or as soon as one is not ignored.

  Python ignores errors raised during garbage collection, in XLA's callback and
  in any `__del__`: the signal is then sent again a little later.
  """
  while frame is not None:
    if frame.f_code.co_name in ("_xla_gc_callback", "__del__"):
      again = threading.Timer(0.1, os.kill, (os.getpid(), number))
      again.daemon = True
      again.start()
      return
    frame = frame.f_back
  if number == signal.SIGINT:
    raise KeyboardInterrupt
  raise SystemExit(128 + number)

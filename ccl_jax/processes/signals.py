"""Ctrl-C and SIGTERM of a command: the errors that they raise, and its end."""

import os
import signal
import sys
import threading
from types import FrameType
from typing import NoReturn


def handle() -> None:
  """Makes Ctrl-C and SIGTERM raise KeyboardInterrupt and SystemExit(143).

  What a shell starts in the background ignores Ctrl-C, and goes on to do so.
  """
  signal.signal(signal.SIGTERM, _raise)
  if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
    signal.signal(signal.SIGINT, _raise)


def leave(code: int) -> NoReturn:
  """Ends the process at once; what `finally` and `with` clean is clean.

  At its usual end Python takes down what threads of XLA may still use, which
  ended one of three interrupted compilations by a segmentation fault.
  """
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)


def _raise(number: int, frame: FrameType | None) -> None:
  """Raises the error of a signal, now or as soon as one is not ignored.

  Python ignores what is raised while it collects garbage, as XLA's callback
  and every `__del__` do: there the signal comes again a little later.
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

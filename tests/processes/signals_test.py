"""Ctrl-C and SIGTERM at moments when Python would lose them or complain."""

import pathlib
import signal
import sys
import time

import pytest

from tests.commands import finish, start

WHILE_GARBAGE = """
import os, time
from ccl_jax import command
class Garbage:
  def __del__(self):
    os.kill(os.getpid(), {number})
    time.sleep(0.01)
def work():
  garbage = Garbage()
  del garbage
  try:
    time.sleep(30)
  finally:
    print("cleaned")
command.run(work, ())
"""


@pytest.mark.parametrize(
  ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_a_signal_while_garbage_is_collected_is_not_lost(number, status):
  program = WHILE_GARBAGE.format(number=int(number))
  code, text = finish(start(sys.executable, "-c", program), timeout=20)
  assert code == status and "cleaned" in text.splitlines(), text
  assert "Traceback" not in text and "ignored" not in text


def test_ctrl_c_during_imports_has_no_traceback():
  process = start(sys.executable, "-m", "ccl_jax.train", "--help")
  maps = pathlib.Path(f"/proc/{process.pid}/maps")
  while "jaxlib" not in maps.read_text():  # of which the rest takes a second
    assert process.poll() is None, finish(process)
    time.sleep(0.01)
  process.send_signal(signal.SIGINT)
  code, text = finish(process)
  assert (code, text) == (-signal.SIGINT, "")


def test_what_ignores_ctrl_c_goes_on_to_do_so():
  program = """
import os, signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
from ccl_jax import command
def work():
  os.kill(os.getpid(), signal.SIGINT)
  time.sleep(0.1)
  print("done")
command.run(work, ())
"""
  code, text = finish(start(sys.executable, "-c", program))
  assert (code, text.strip()) == (0, "done")

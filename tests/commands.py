"""The commands as people start them: processes of their own."""

import os
import pathlib
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]


def start(*command, **environment):
  """A process in the checkout, on the CPU, that says all in one stream.

  Where PyTorch is installed, it is hidden: without it they start in half the
  time, and nothing needs it.
  """
  settings = {
    "JAX_PLATFORMS": "cpu",
    "PYTHONUNBUFFERED": "1",
    "PYTHONPATH": str(ROOT / "tests" / "without_torch"),
  }
  return subprocess.Popen(
    list(map(str, command)), cwd=ROOT, text=True, start_new_session=True,
    stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    env=os.environ | settings | environment,
  )  # fmt: skip


def finish(process, timeout=600):
  """(exit status, everything it printed)."""
  text, _ = process.communicate(timeout=timeout)
  return process.returncode, text


def call(module, *arguments):
  """Runs a command of ours; (exit status, everything it printed)."""
  return finish(start(sys.executable, "-m", f"ccl_jax.{module}", *arguments))


def free_port():
  with socket.socket() as taken:
    taken.bind(("127.0.0.1", 0))
    return taken.getsockname()[1]


def start_two(*program, devices=1):
  """Both processes of one run; --distributed is their last argument."""
  address = f"127.0.0.1:{free_port()}"
  settings = {"JAX_NUM_CPU_DEVICES": str(devices), "CCL_PEER_TIMEOUT": "60"}
  return [
    start(
      sys.executable, *program, f"--distributed={address},2,{i}", **settings
    )
    for i in range(2)
  ]  # fmt: skip

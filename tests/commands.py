"""Starts commands in processes of their own, as people do."""

import multiprocessing
import os
import pathlib
import runpy
import signal
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
# None of these is a command: those would define flags.
IMPORTED = [
  "ccl_jax.convert.export", "ccl_jax.convert.inspection",
  "ccl_jax.generation.batch", "ccl_jax.generation.previews",
  "ccl_jax.metrics.synchworld", "ccl_jax.training.log",
  "ccl_jax.training.state", "librosa.core.spectrum", "librosa.filters",
  "librosa.util",
]  # fmt: skip


def start(*command, **environment):
  """Starts a process in the checkout, on the CPU; stderr goes into stdout.

  PyTorch is hidden from it: nothing needs it, and imports take half the time.
  """
  # What a shell runs in the background ignores Ctrl-C, and so would its child.
  if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
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
  """Waits for a process; returns its exit status and all that it printed."""
  text, _ = process.communicate(timeout=timeout)
  return process.returncode, text


def call(module, *arguments):
  """Runs `ccl_jax.MODULE`; returns its exit status and all that it printed."""
  return finish(start(sys.executable, "-m", f"ccl_jax.{module}", *arguments))


class Forks:
  """Commands in forks of one process that has their imports.

  These are most of the time of a small command.
  """

  def __init__(self, log):
    self._log = log
    self._context = multiprocessing.get_context("forkserver")
    self._context.set_forkserver_preload(IMPORTED)

  def __call__(self, module, *arguments):
    """Runs `ccl_jax.MODULE`; returns its exit status and what it printed."""
    process = self._context.Process(
      target=_run, args=(self._log, module, *map(str, arguments))
    )
    process.start()
    process.join()
    return process.exitcode, self._log.read_text()


def _run(log, module, *arguments):
  """Runs a command in this process; what it prints goes to a file."""
  with log.open("w") as file:
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
  sys.argv = [module, *arguments]
  runpy.run_module(f"ccl_jax.{module}", run_name="__main__", alter_sys=True)


def free_port():
  """Returns a port that nothing listens on."""
  with socket.socket() as taken:
    taken.bind(("127.0.0.1", 0))
    return taken.getsockname()[1]


def start_two(*program, devices=1):
  """Starts both processes of one run, with --distributed as last argument."""
  address = f"127.0.0.1:{free_port()}"
  settings = {"JAX_NUM_CPU_DEVICES": str(devices), "CCL_PEER_TIMEOUT": "60"}
  return [
    start(
      sys.executable, *program, f"--distributed={address},2,{i}", **settings
    )
    for i in range(2)
  ]  # fmt: skip

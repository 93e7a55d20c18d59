"""Starts commands in processes of their own, as people do."""

import multiprocessing
import os
import pathlib
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from unittest import mock

ROOT = pathlib.Path(__file__).parents[1]
# None of these is a command: those would define flags.
IMPORTED = [
  "ccl_jax.convert.export", "ccl_jax.convert.inspection",
  "ccl_jax.generation.batch", "ccl_jax.generation.previews",
  "ccl_jax.metrics.synchworld", "ccl_jax.training.log",
  "ccl_jax.training.state", "librosa.core.spectrum", "librosa.filters",
  "librosa.util",
]  # fmt: skip
# PyTorch is hidden: nothing needs it, and imports take half the time.
SETTINGS = {
  "JAX_PLATFORMS": "cpu",
  "PYTHONUNBUFFERED": "1",
  "PYTHONPATH": str(ROOT / "tests" / "without_torch"),
}
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(IMPORTED)


def start(*command, **environment):
  """Starts a process in the checkout, on the CPU; stderr goes into stdout."""
  # What a shell runs in the background ignores Ctrl-C, and so would its child.
  if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
  return subprocess.Popen(
    list(map(str, command)), cwd=ROOT, text=True, start_new_session=True,
    stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    env=os.environ | SETTINGS | environment,
  )  # fmt: skip


def finish(process, timeout=600):
  """Waits for a process; returns its exit status and all that it printed."""
  text, _ = process.communicate(timeout=timeout)
  return process.returncode, text


def call(module, *arguments):
  """Runs `ccl_jax.MODULE`; returns its exit status and all that it printed.

  It runs in a fork of a process that has its imports, most of the time of a
  small command.
  """
  with (
    mock.patch.dict(os.environ, SETTINGS),
    tempfile.NamedTemporaryFile("r") as file,
  ):
    process = _FORKS.Process(
      target=_run,
      args=(file.name, dict(os.environ), module, *map(str, arguments)),
    )
    process.start()
    process.join(600)
    process.kill()
    process.join()
    return process.exitcode, file.read()


def _run(output, environment, module, *arguments):
  """Runs a command in this process; what it prints goes to a file."""
  with open(output, "a") as file:
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
  os.chdir(ROOT)
  os.environ.clear()
  os.environ.update(environment)
  import jax  # here: a process that only starts others need not wait for it

  folder = environment.get("JAX_COMPILATION_CACHE_DIR")
  jax.config.update("jax_compilation_cache_dir", folder)  # read at its import
  sys.path.insert(0, SETTINGS["PYTHONPATH"])
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

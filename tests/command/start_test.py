"""Ends of a command: its codes, its words, and what it leaves behind."""

import os
import pathlib
import subprocess
import sys

import pytest

from tests.commands import finish, start

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize(
  ("config", "message"),
  [
    ("no_such_file.py", "error: --config: [Errno 2] No such file or"),
    ("ccl.py:size=tiny", "error: --config.data.path is not set"),
  ],
)
def test_what_the_user_can_fix_ends_with_a_code_of_its_own(
  tmp_path, config, message
):
  """While parsing and later. Launchers start again after any other code."""
  done = subprocess.run(
    [
      sys.executable, "-m", "ccl_jax.train", f"--config=configs/{config}",
      f"--workdir={tmp_path}/run",
    ],
    cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
    capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert done.returncode == 2
  assert done.stderr.splitlines()[-1].startswith(message), done.stderr


@pytest.mark.parametrize(
  "program", [["ccl_jax/train.py"], ["-m", "ccl_jax.train"]]
)
def test_help_is_no_error(program):
  """Also when started as a file: no module hides one of Python's own."""
  done = subprocess.run(
    [sys.executable, *program, "--help"], cwd=ROOT,
    env=os.environ | {"PYTHONPATH": str(ROOT)},
    capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  assert "--workdir" in done.stdout


@pytest.mark.parametrize(
  ("error", "status", "words"),
  [
    ("PermissionError(13, 'Permission denied', 'out')", 2, "'out': Permission"),
    ("OSError(28, 'No space left on device')", 2, "error: No space left"),
    ("OSError(5, 'Input/output error')", 1, "[Errno 5]"),  # launchers try again
    (
      "OSError('Forbidden: b/a/o/b')",
      2,
      "refused a request: Forbidden: gs://a",
    ),
    (
      "TimeoutError()",
      1,
      "error: A bucket could not be reached: TimeoutError.",
    ),
    ("KeyboardInterrupt()", 130, "interrupted"),
  ],
)
def test_what_another_try_does_not_mend_is_one_line(error, status, words):
  program = f"""
from ccl_jax import command
def fail():
  raise {error}
command.run(fail, ())
"""
  done = finish(start(sys.executable, "-c", program))
  assert done[0] == status and words in done[1].splitlines()[-1]
  assert ("Traceback" in done[1]) == ("Errno 5" in words)


def test_a_program_that_is_ended_removes_what_is_half_written(tmp_path):
  program = f"""
import time
from ccl_jax import command
from ccl_jax.storage import files
def write():
  with files.replacing("{tmp_path}/a.mp4") as partial:
    partial.write_text("half")
    print("begun", flush=True)
    time.sleep(60)
command.run(write, ())
"""
  process = start(sys.executable, "-c", program)
  assert process.stdout.readline() == "begun\n"
  process.terminate()
  assert finish(process)[0] == 128 + 15
  assert not list(tmp_path.iterdir())

"""Flags: their spelling, and their names in earlier versions.

More errors are in tests/train_test.py.
"""

import os
import pathlib
import subprocess
import sys

import pytest
from absl import flags

from ccl_jax import command
from tests.commands import finish, start

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture
def known(monkeypatch):
  """The flags of a command."""
  known = flags.FlagValues()
  for name in ("output", "shard-size", "config", "note", "steps"):
    flags.DEFINE_string(name, "", "", flag_values=known)
  for name in ("attention_maps", "batch_passes"):
    flags.DEFINE_bool(name, None, "", flag_values=known)
  flags.DEFINE_float("guidance_rescale", 0.0, "", flag_values=known)
  flags.DEFINE_integer("num_inference_steps", 50, "", flag_values=known)
  monkeypatch.setattr(flags, "FLAGS", known)
  return known


@pytest.mark.parametrize(
  ("argument", "name", "value"),
  [
    ("--attention-maps", "attention_maps", True),
    ("--noattention-maps", "attention_maps", False),
    ("--attention_maps=false", "attention_maps", False),
    ("--shard-size=1GB", "shard-size", "1GB"),
    ("--note=a-b", "note", "a-b"),
    ("--output=--out=x", "output", "--out=x"),
    ("--steps=1,2", "steps", "1,2"),  # an old name, but a flag of its own here
  ],
)
def test_flags_may_be_spelled_with_dashes(known, argument, name, value):
  assert command.parse_flags(["program", argument]) == ["program"]
  assert known[name].value == value


def test_arguments_that_are_no_flags_are_returned(known):
  parsed = command.parse_flags(["program", "to-torch", "--note=x"])
  assert parsed == ["program", "to-torch"]


@pytest.mark.parametrize(
  ("argument", "message"),
  [
    ("--out=DIR", "--out is called --output now."),
    ("--rescale=0.7", "--rescale is called --guidance_rescale now."),
    ("--nobatched", "--nobatched is called --nobatch_passes now."),
    ("--config.steps=4", "--config.steps is called --config.num_train_steps"),
    ("--config.xla", "--config.xla is called --config.xla_options now."),
    (
      "--config.initial.sources=()",
      "--config.initial.sources is called --config.init.from_runs now. It is"
      " written --config.init.from_runs=",
    ),
    (
      "--config.initial.more=()",
      "--config.initial.more is called --config.init.more now.",
    ),
    (
      "--config.model.fusion.audio-half=2",
      "--config.model.fusion.audio-half is called"
      " --config.model.fusion.audio_window_radius now.",
    ),
    (
      "--noconfig.sampling.reference-once",
      "--noconfig.sampling.reference-once is called"
      " --noconfig.sampling.cache_reference now.",
    ),
  ],
)
def test_an_old_name_is_an_error_with_the_new_one(known, argument, message):
  with pytest.raises(SystemExit) as error:
    command.parse_flags(["program", "--note=x", argument])
  assert str(error.value).startswith(f"error: {message}")


@pytest.mark.parametrize("argument", ["--train=3", "--outptu=x"])
def test_other_unknown_flags_are_errors_of_absl(known, argument):
  """Also an old name whose new one this command does not have."""
  with pytest.raises(SystemExit, match="error: Unknown command line flag"):
    command.parse_flags(["program", argument])


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
from ccl_jax import command, files
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

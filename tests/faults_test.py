"""Runs that are killed, asked to stop, moved to other devices, or damaged.

The commands are real; of each, the compiled programs are kept between starts.
"""

import json
import logging
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from ccl_jax import sharding
from ccl_jax.data import pipeline
from ccl_jax.training import checkpoint, restore, step
from configs.ccl import get_config
from tests.train_test import SMALL, data  # noqa: F401

ROOT = pathlib.Path(__file__).parents[1]
STEPS, EVERY = 24, 4
FLAGS = [
  "--config=configs/ccl.py:size=tiny",
  *SMALL,
  "--config.eval.tasks=()",
  f"--config.steps={STEPS}",
  f"--config.checkpoint.every={EVERY}",
  "--config.checkpoint.keep=20",
]
# Dies when the arrays of step 12 are written and not yet called a checkpoint.
DIES_WHILE_SAVING = """
import os, runpy, signal, sys
from ccl_jax.training import restore
record = restore.record_files
def die(folder):
  record(folder)
  if folder.name.split(".")[0] == "12":
    os.kill(os.getpid(), signal.SIGKILL)
restore.record_files = die
sys.argv[0] = "ccl_jax.train"
runpy.run_module("ccl_jax.train", run_name="__main__")
"""


@pytest.fixture(scope="module")
def flags(data, tmp_path_factory):  # noqa: F811
  """Those of every run, and what keeps compiled programs."""
  cache = tmp_path_factory.mktemp("programs")
  os.environ["JAX_COMPILATION_CACHE_DIR"] = str(cache)
  os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
  yield [*FLAGS, f"--config.data.path={data}"]
  del os.environ["JAX_COMPILATION_CACHE_DIR"]
  del os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"]


def start(command, **environment):
  return subprocess.Popen(
    list(map(str, command)), cwd=ROOT, text=True, start_new_session=True,
    stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    env=os.environ | environment,
  )  # fmt: skip


def train(workdir, flags, *more, program=("-m", "ccl_jax.train"), devices=1):
  virtual = f"--xla_force_host_platform_device_count={devices}"
  command = [sys.executable, *program, f"--workdir={workdir}", *flags, *more]
  return start(command, XLA_FLAGS=virtual, JAX_PLATFORMS="cpu")


def pod(workdir, flags, *more, count=2, devices=2):
  options = (f"--devices={devices}", "--grace=30", "--")
  return start(
    ["bash", "launch/local_pod.sh", count, *options, f"--workdir={workdir}"]
    + [*flags, *more],
    CCL_PEER_TIMEOUT="8",
  )


def finish(process, timeout=200):
  """(exit code, all that it printed)."""
  text, _ = process.communicate(timeout=timeout)
  return process.returncode, text


def losses(workdir):
  """Step -> loss."""
  file = workdir / "metrics.jsonl"
  lines = file.read_text().splitlines() if file.exists() else []
  found = [json.loads(line) for line in lines if line.endswith("}")]
  return {m["step"]: m["loss"] for m in found if "loss" in m}


def wait_for(process, workdir, done, timeout=150):
  """Until a run has logged step `done`."""
  end = time.monotonic() + timeout
  while max(losses(workdir), default=0) < done:
    assert process.poll() is None, finish(process)[1]
    assert time.monotonic() < end, f"{done=} was not reached"
    time.sleep(0.005)


def final_state(workdir):
  """Path -> array of the last checkpoint."""
  folder = workdir / "checkpoints" / str(STEPS)
  shapes = restore.saved_shapes(folder)
  tree = {p: jax.ShapeDtypeStruct(s, None) for p, s in shapes.items()}
  return {p: np.asarray(x) for p, x in restore.read(folder, tree).items()}


def assert_equal_states(one, other):
  assert one.keys() == other.keys() and len(one) > 50
  for path in one:
    np.testing.assert_array_equal(one[path], other[path], err_msg=path)


@pytest.fixture(scope="module")
def undisturbed(flags, tmp_path_factory):
  """A run on one device that nothing happens to."""
  workdir = tmp_path_factory.mktemp("undisturbed")
  code, text = finish(train(workdir, flags))
  assert code == 0, text
  return workdir


def test_killed_stopped_and_damaged_it_ends_as_if_nothing_had_happened(
  flags, undisturbed, tmp_path
):
  """Bit for bit, with the state of the optimizer and the averages."""
  # kill -9 somewhere.
  done = random.randrange(2, 6)
  process = train(tmp_path, flags)
  wait_for(process, tmp_path, done)
  process.kill()
  code, text = finish(process)
  assert code == -signal.SIGKILL, text

  # kill -9 during a save: its files are there, and no checkpoint.
  program = ("-c", DIES_WHILE_SAVING)
  code, text = finish(train(tmp_path, flags, program=program))
  assert code == -signal.SIGKILL, text
  assert restore.steps(tmp_path)[-1] == 8
  assert list((tmp_path / "checkpoints").glob("12.*"))

  # SIGTERM: it ends a step, saves it, and all is well.
  process = train(tmp_path, flags)
  wait_for(process, tmp_path, 13 + done)
  process.terminate()
  code, text = finish(process)
  assert code == 0 and "Resuming" in text, text
  stopped = restore.steps(tmp_path)[-1]
  assert 13 + done <= stopped < STEPS, stopped
  assert max(losses(tmp_path)) == stopped

  code, text = finish(train(tmp_path, flags))
  assert code == 0 and f"from step {stopped}" in text, text
  assert losses(tmp_path) == losses(undisturbed)
  expected = final_state(undisturbed)
  assert_equal_states(final_state(tmp_path), expected)

  # The newest is cut short: a warning, the one before, and the same end.
  newest = tmp_path / "checkpoints" / str(STEPS)
  damaged = max(newest.rglob("d/*"), key=lambda path: path.stat().st_size)
  damaged.write_bytes(damaged.read_bytes()[:-100])
  code, text = finish(train(tmp_path, flags))
  assert code == 0 and f"from step {STEPS - EVERY}" in text, text
  assert f"checkpoints/{STEPS}' is broken" in text and damaged.name in text
  assert_equal_states(final_state(tmp_path), expected)
  assert (tmp_path / "checkpoints.broken" / str(STEPS)).is_dir()


def test_two_processes_equal_one_and_survive_a_death(flags, tmp_path):
  """2 processes x 2 devices against 1 x 4; then 2 hosts become 1."""
  alone, together = tmp_path / "alone", tmp_path / "together"
  code, text = finish(train(alone, flags, devices=4))
  assert code == 0, text

  process = pod(together, flags)
  wait_for(process, together, 5)
  children = subprocess.run(
    ["pgrep", "-g", str(process.pid), "-f", "distributed=.*,2,1 "],
    capture_output=True, text=True, check=True,
  )  # fmt: skip
  os.kill(int(children.stdout.split()[0]), signal.SIGKILL)
  killed = time.monotonic()
  code, text = finish(process)
  assert code != 0 and time.monotonic() - killed < 60, text
  assert "process 0 ended with code" in text
  assert "another task died" in text or "closed by peer" in text, text

  # Again, up to a SIGTERM of all: both stop after the same step.
  process = pod(together, flags)
  wait_for(process, together, 10)
  process.terminate()
  code, text = finish(process)
  assert code == 0 and "Resuming" in text, text
  stopped = restore.steps(together)[-1]
  assert 10 <= stopped < STEPS

  # One host with four devices goes on.
  code, text = finish(train(together, flags, devices=4))
  assert code == 0 and f"from step {stopped}" in text, text
  expected, found = losses(alone), losses(together)
  assert list(found) == list(expected) == list(range(1, STEPS + 1))
  np.testing.assert_allclose(
    list(found.values()), list(expected.values()), rtol=1e-4
  )


def run_on(devices, config, workdir, until):
  """The loop of `ccl_jax.train` on some devices: losses, names by step."""
  recipe = step.make_recipe(config, jax.devices()[:devices])
  rows = sharding.local_rows(recipe.layout, recipe.batch)
  loader = pipeline.make_loader(
    config["data"]["path"], batch=recipe.batch, seed=recipe.seed, rows=rows
  )
  checkpoints = checkpoint.Checkpointer(workdir, every=1)
  found = checkpoints.restore_newest(step.abstract_state(recipe))
  state, first = found or (step.init_state(recipe), 0)
  take_step, seen = step.compile_step(recipe), {}
  for i in range(first, until):
    batch = step.put_batch(recipe, rows, loader.batch_at(i))
    state, metrics = take_step(state, batch)
    seen[i] = float(metrics["loss"]), loader.names_at(i)
    checkpoints.save(i + 1, state)
  checkpoints.close()
  return seen


def test_on_other_devices_a_run_goes_on_with_the_same_data(
  data,  # noqa: F811
  tmp_path,
  caplog,
):
  """4 -> 2 -> 8 devices, against one."""
  config = get_config("size=tiny").to_dict() | {"batch": 8}
  config["data"]["path"] = str(data)
  config["model"] |= {"num_layers": 1}
  for stream in ("video", "audio"):
    config["model"][stream] |= {"width": 32, "heads": 1, "ffn": 32}
  with caplog.at_level(logging.WARNING):
    expected = run_on(1, config, tmp_path / "one", 5)
    found = {}
    for devices, until in ((4, 2), (2, 3), (8, 5)):
      found |= run_on(devices, config, tmp_path / "many", until)
  assert not caplog.records
  assert [x[1] for x in found.values()] == [x[1] for x in expected.values()]
  np.testing.assert_allclose(
    [x[0] for x in found.values()], [x[0] for x in expected.values()], rtol=1e-4
  )

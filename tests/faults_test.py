"""Runs that are killed, asked to stop, moved to other devices, or damaged.

The commands are real.
"""

import functools
import json
import os
import pathlib
import random
import signal
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from ccl_jax.checkpoints import manager, restore
from ccl_jax.data.loader import Loader
from ccl_jax.training import step
from ccl_jax.training.batch import local_samples, put_batch
from ccl_jax.training.setup import make_setup
from ccl_jax.training.state import abstract_state, init_state
from configs.ccl import get_config
from tests.commands import finish, start
from tests.small_data import AUDIO_FLAGS

STEPS, EVERY = 40, 8
# One stream: what is trained does not matter, and compiling takes longest.
FLAGS = [
  "--config=configs/ccl.py:size=tiny,stage=audio",
  *AUDIO_FLAGS,
  "--config.eval.tasks=()",
  f"--config.num_train_steps={STEPS}",
  f"--config.checkpoint.save_interval_steps={EVERY}",
  "--config.checkpoint.max_to_keep=20",
]
# Dies when all of step 16 is written but its folder not yet renamed.
DIES_WHILE_SAVING = """
import os, runpy, signal, sys
from ccl_jax.checkpoints import manifest
write_manifest = manifest.write
def die(folder, digests):
  write_manifest(folder, digests)
  if folder.name.split(".")[0] == "16":
    os.kill(os.getpid(), signal.SIGKILL)
manifest.write = die
sys.argv[0] = "ccl_jax.train"
runpy.run_module("ccl_jax.train", run_name="__main__")
"""


@pytest.fixture
def rng():
  """When faults happen; CCL_FAULTS_SEED repeats those of a failed test."""
  seed = int(os.environ.get("CCL_FAULTS_SEED", random.randrange(2**32)))
  print(f"CCL_FAULTS_SEED={seed}")
  return random.Random(seed)


@pytest.fixture(scope="module")
def data_flag(data):
  return f"--config.data.path={data}"


def train(workdir, flags, program=("-m", "ccl_jax.train"), devices=1):
  command = (sys.executable, *program, f"--workdir={workdir}", *flags)
  return start(*command, JAX_NUM_CPU_DEVICES=str(devices))


def pod(workdir, flags):
  """Two processes with two devices each."""
  options = ("2", "--devices=2", "--grace=300", "--", f"--workdir={workdir}")
  command = ("bash", "launch/local_pod.sh", *options, *flags)
  return start(*command, CCL_PEER_TIMEOUT="8")


def process_of_pod(workdir, index):
  """Its process id."""
  for file in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
    words = file.read_bytes().decode().split("\0") if file.exists() else []
    spec = next((w for w in words if w.startswith("--distributed=")), "")
    if spec.endswith(f",{index}") and f"--workdir={workdir}" in words:
      return int(file.parent.name)
  raise AssertionError(f"no process {index} of {workdir}")


def losses(workdir):
  """Step -> loss."""
  file = workdir / "metrics.jsonl"
  lines = file.read_text().splitlines() if file.exists() else []
  found = [json.loads(line) for line in lines if line.endswith("}")]
  return {m["step"]: m["loss"] for m in found if "loss" in m}


def wait_until(process, is_so, timeout=300):
  """While the process lives."""
  end = time.monotonic() + timeout
  while not is_so():
    assert process.poll() is None, finish(process)[1]
    assert time.monotonic() < end, "it takes too long"
    time.sleep(0.005)


def wait_for(process, workdir, done):
  """Until a run that was just started has logged step `done`."""
  began, file = time.time(), workdir / "metrics.jsonl"

  def has_logged():
    is_its_own = file.exists() and file.stat().st_mtime > began
    return is_its_own and max(losses(workdir), default=0) >= done

  wait_until(process, has_logged)


def assert_equal_ends(one, other):
  """The last checkpoints of two workdirs, bit by bit."""
  read = ocp.StandardCheckpointer().restore
  states = [
    read(w / "checkpoints" / str(STEPS) / "default") for w in (one, other)
  ]
  for a, b in zip(*map(jax.tree.leaves, states), strict=True):
    np.testing.assert_array_equal(a, b)
  assert len(jax.tree.leaves(states[0])) > 50


def test_killed_stopped_and_damaged_it_ends_as_if_nothing_had_happened(
  data_flag, tmp_path, rng
):
  """Bit for bit, with the state of the optimizer and the averages."""
  flags = [*FLAGS, data_flag]
  calm, run = tmp_path / "calm", tmp_path / "run"
  code, text = finish(train(calm, flags))
  assert code == 0, text

  # kill -9 somewhere.
  process = train(run, flags)
  wait_for(process, run, rng.randrange(2, 12))
  process.kill()
  code, text = finish(process)
  assert code == -signal.SIGKILL, text

  # kill -9 during a save: its files are there, but it is no checkpoint.
  program = ("-c", DIES_WHILE_SAVING)
  code, text = finish(train(run, flags, program=program))
  assert code == -signal.SIGKILL, text
  assert restore.all_steps(run)[-1] == 8
  assert list((run / "checkpoints").glob("16.*"))

  # SIGTERM somewhere: it ends a step, saves it, and all is well.
  process = train(run, flags)
  wait_for(process, run, rng.randrange(16, 28))
  process.terminate()
  code, text = finish(process)
  assert code == 0 and "from step 8" in text, text
  *_, before, stopped = restore.all_steps(run)
  assert 16 <= stopped < STEPS
  assert max(losses(run)) == stopped

  # One bit of the newest flips: a warning, the one before, and the same end.
  newest = run / "checkpoints" / str(stopped)
  damaged = max(newest.rglob("d/*"), key=lambda path: path.stat().st_size)
  content = bytearray(damaged.read_bytes())
  content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
  damaged.write_bytes(content)
  code, text = finish(train(run, flags))
  assert code == 0 and f"from step {before}" in text, text
  assert (
    f"checkpoints/{stopped}' cannot be read" in text and damaged.name in text
  )
  assert (run / "checkpoints.broken" / str(stopped)).is_dir()
  assert losses(run) == losses(calm)
  assert_equal_ends(run, calm)


def test_two_processes_equal_one_and_survive_a_death(data_flag, tmp_path, rng):
  """2 processes x 2 devices against 1 x 4; then 2 hosts become 1."""
  flags = [*FLAGS, data_flag]
  alone, together = tmp_path / "alone", tmp_path / "together"
  code, text = finish(train(alone, flags, devices=4))
  assert code == 0, text

  process = pod(together, flags)
  wait_until(process, lambda: restore.all_steps(together))
  time.sleep(rng.uniform(0, 0.1))  # kill -9 somewhere
  os.kill(process_of_pod(together, 1), signal.SIGKILL)
  code, text = finish(process)
  # The other process ends by itself: the script does not have to kill it.
  assert code != 0 and "process 0 ended with code" in text, text
  assert "killing process" not in text, text
  assert "another task died" in text or "closed by peer" in text, text

  # Again, until a SIGTERM to both: they stop after the same step.
  process = pod(together, flags)
  wait_for(process, together, 12)
  process.terminate()
  code, text = finish(process)
  assert code == 0 and "Resuming" in text, text
  stopped = restore.all_steps(together)[-1]
  assert 12 <= stopped < STEPS

  # One host with four devices goes on.
  code, text = finish(train(together, flags, devices=4))
  assert code == 0 and f"from step {stopped}" in text, text
  expected, found = losses(alone), losses(together)
  assert list(found) == list(expected) == list(range(1, STEPS + 1))
  np.testing.assert_allclose(
    list(found.values()), list(expected.values()), rtol=1e-4
  )


@functools.cache
def program(devices, data):
  """Setup, a function that makes the first state, and step, on some devices."""
  config = get_config("size=tiny,stage=audio").to_dict() | {"batch_size": 8}
  config["model"] |= {"num_layers": 1}
  config["model"]["audio"] |= {"width": 32, "heads": 1, "ffn": 32}
  setup = make_setup(config, jax.devices()[:devices])
  init = functools.cache(lambda: init_state(setup))
  return setup, init, step.compile_step(setup)


def run_on(devices, data, workdir, until):
  """The loop of `ccl_jax.train`: names and loss of each step."""
  setup, init, take_step = program(devices, data)
  rows = local_samples(setup)
  loader = Loader(data, batch_size=setup.batch_size, rows=rows)
  checkpoints = manager.CheckpointManager(workdir, save_interval_steps=1)
  found = checkpoints.restore_latest(abstract_state(setup))
  state, start = found or (jax.tree.map(jnp.copy, init()), 0)
  seen = {}
  for i in range(start, until):
    batch = put_batch(setup, loader.batch_at(i))
    state, metrics = take_step(state, batch)
    seen[i] = loader.names_at(i), float(metrics["loss"])
    checkpoints.save(i + 1, state)
  checkpoints.close()
  return seen


@pytest.mark.usefixtures("standard_promotion")
def test_on_other_devices_a_run_goes_on_with_the_same_data(data, tmp_path):
  """4 -> 2 -> 8 devices, against 4."""
  expected = run_on(4, data, tmp_path / "same", 5)
  found = {}
  for devices, until in ((4, 2), (2, 3), (8, 5)):
    found |= run_on(devices, data, tmp_path / "other", until)
  names, values = zip(*expected.values(), strict=True)
  found_names, found_values = zip(*found.values(), strict=True)
  assert found_names == names
  np.testing.assert_allclose(found_values, values, rtol=1e-4)

"""Copies in the hosts' memory: tests/faults_test.py's kills, but of slices."""

import re
import shutil

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from ccl_jax.checkpoints import emergency
from ccl_jax.params import sharding
from tests import commands

# Two processes of two devices are two slices; each start adds 4 to the steps.
PROGRAM = """
import sys
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax.sharding import NamedSharding, PartitionSpec
from ccl_jax.processes import distributed
from ccl_jax.params import sharding
from ccl_jax.checkpoints.manager import CheckpointManager

flags.FLAGS(["test"])  # Orbax reads some.
workdir, folder, spec = sys.argv[1:]
distributed.initialize(spec.split("=")[1])
mesh = sharding.make_mesh(jax.devices(), data=2, fsdp=2)
shardings = {
  name: NamedSharding(mesh, PartitionSpec(*axes))
  for name, axes in {"a": ["fsdp"], "empty": [], "step": []}.items()
}

def make(step):
  return {
    "a": jnp.arange(8.0) + step,
    "empty": jnp.zeros((0, 3)),
    "step": jnp.int32(step),
  }

make = jax.jit(make, static_argnums=0, out_shardings=shardings)
shapes = jax.tree.map(
  lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), make(0)
)
checkpoints = CheckpointManager(
  workdir, save_interval_steps=3, emergency_folder=folder,
  emergency_every_steps=2, verify=False,
)
found = checkpoints.restore_latest(shapes)
start = 0
if found:
  state, start = found
  for got, right in zip(jax.tree.leaves(state), jax.tree.leaves(make(start))):
    assert got.sharding == right.sharding and got.dtype == right.dtype
    for x, y in zip(got.addressable_shards, right.addressable_shards):
      np.testing.assert_array_equal(x.data, y.data)
print("from", start)
for step in range(start + 1, start + 5):
  if checkpoints.should_copy(step):
    checkpoints.copy(step, make(step))
  if checkpoints.should_save(step):
    checkpoints.save(step, make(step))
checkpoints.close()
distributed.shutdown()
"""


def start_of(workdir, folder):
  """The step that a start of both processes begins from."""
  processes = commands.start_two("-c", PROGRAM, workdir, folder, devices=2)
  ends = [commands.finish(process) for process in processes]
  assert [status for status, _ in ends] == [0, 0], ends
  first, second = (re.findall(r"^from (\d+)$", text, re.M) for _, text in ends)
  assert first == second
  return int(first[0])


def test_the_later_of_copies_and_checkpoints_is_restored(tmp_path):
  workdir, memory = tmp_path / "run", tmp_path / "memory"
  (memory / "ccl_jax-of_another_run").mkdir(parents=True)
  assert start_of(workdir, memory) == 0
  assert start_of(workdir, memory) == 4  # copies: 2 and 4; checkpoints: 3
  first, second = sorted(memory.iterdir())
  assert (first.name[-2:], second.name[-2:]) == ("-0", "-1")
  shutil.rmtree(first)  # the first slice is a new one
  assert start_of(workdir, memory) == 8
  # A copy that a process died of while it read it.
  (memory / second.name / "reading").write_text("12")
  assert start_of(workdir, memory) == 12  # a checkpoint, too
  shutil.rmtree(memory)
  assert start_of(workdir, memory) == 15


def shapes_on(mesh, spec):
  place = NamedSharding(mesh, PartitionSpec(*spec))
  return {"a": jax.ShapeDtypeStruct((8,), jnp.float32, sharding=place)}


@pytest.mark.parametrize(
  ("data", "spec", "problem"),
  [
    (1, ["fsdp"], "mesh.data=1"),
    (2, [("fsdp", "data")], "split parameters over `data`"),
    (2, ["fsdp"], "a process has devices of several of 2 rows"),
  ],
)
def test_rows_that_lack_a_part_are_an_error(tmp_path, data, spec, problem):
  mesh = sharding.make_mesh(jax.devices(), data=data)
  with pytest.raises(ValueError, match=problem):
    emergency.find_mesh(shapes_on(mesh, spec))


def test_one_device_is_an_error():
  with pytest.raises(ValueError, match="there is no mesh"):
    emergency.find_mesh({"a": jax.ShapeDtypeStruct((8,), jnp.float32)})


@pytest.mark.parametrize("folder", ["gs://bucket/copies", "/proc/copies"])
def test_a_folder_that_cannot_be_is_an_error(tmp_path, monkeypatch, folder):
  mesh = sharding.make_mesh(jax.devices(), data=2)
  monkeypatch.setattr(emergency, "find_mesh", lambda shapes: mesh)
  with pytest.raises(ValueError, match=r"emergency_folder=.*/dev/shm"):
    emergency.EmergencyManager(folder, tmp_path, shapes_on(mesh, ["fsdp"]))

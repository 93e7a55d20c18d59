"""Changed files are found by their digests, and lead to the step before."""

import json
import logging
import random

import pytest
from etils import epath

from ccl_jax.checkpoints import manager, manifest, orbax_reader, restore
from ccl_jax.storage import files
from tests import bucket, commands
from tests.training import states


@pytest.fixture
def run(tmp_path):
  """A workdir with the steps 1 and 2."""
  return save(tmp_path)


def save(workdir, **kwargs):
  checkpoints = manager.CheckpointManager(
    workdir, save_interval_steps=1, **kwargs
  )
  for step in (1, 2):
    checkpoints.save(step, states.make(4, seed=step))
  checkpoints.close()
  return workdir


def newest(workdir, **kwargs):
  """The step that is restored; its values are right."""
  checkpoints = manager.CheckpointManager(workdir, **kwargs)
  try:
    found = checkpoints.restore_latest(states.shapes(states.make(), 2))
  finally:
    checkpoints.close()
  state, step = found
  states.assert_equal(state, states.make(seed=step))
  return step


def stored(workdir):
  """The folder of step 2 and the names of its files."""
  folder = epath.Path(workdir) / "checkpoints" / "2"
  return folder, sorted(files.file_sizes(folder / "default"))


def flip(path, bit):
  data = bytearray(path.read_bytes())
  data[bit // 8] ^= 1 << bit % 8
  path.write_bytes(data)


def test_every_file_has_its_size_and_digest(run):
  folder, names = stored(run)
  entries = json.loads((folder / "files.json").read_text())
  assert sorted(entries) == names
  assert any("ocdbt.process_0/d/" in name for name in entries)
  for name, entry in entries.items():
    data = (folder / "default" / name).read_bytes()
    (digest,) = manifest.compute_digests(folder / "default", [name]).values()
    assert entry == {"bytes": len(data), "crc32": digest}
  assert {p.name for p in folder.iterdir() if p.suffix == ".json"} == {
    "files.json"
  }


def test_any_flipped_bit_is_found(run):
  """At random places of every file, and at its first and last."""
  folder, names = stored(run)
  rng = random.Random(0)
  for name in names:
    path = folder / "default" / name
    bits = 8 * path.stat().length
    for bit in (0, bits - 1, *(rng.randrange(bits) for _ in range(12))):
      flip(path, bit)
      with pytest.raises(orbax_reader.BrokenError, match=f"{name} has changed"):
        manifest.check(folder)
      flip(path, bit)
  manifest.check(folder)


def test_a_flipped_bit_leads_to_the_step_before(run, caplog):
  folder, names = stored(run)
  name = max(names, key=lambda name: (folder / "default" / name).stat().length)
  flip(folder / "default" / name, 4001)
  with caplog.at_level(logging.WARNING):
    assert newest(run) == 1
  assert f"checkpoints/2' cannot be read: {name} has changed" in caplog.text
  assert (run / "checkpoints.broken" / "2").is_dir()


def test_parameters_of_a_changed_checkpoint_are_an_error(run):
  folder, _ = stored(run)
  flip(folder / "default" / "_METADATA", 100)
  shapes = states.shapes(states.make()["ema"])
  with pytest.raises(ValueError, match=r"has changed.*another of the steps"):
    restore.read_params(run, shapes)
  assert restore.read_params(run, shapes, step=1)[1] == 1


def test_without_verify_there_are_no_digests(tmp_path):
  run = save(tmp_path, verify=False)
  folder, _ = stored(run)
  entries = json.loads((folder / "files.json").read_text())
  assert all(entry.keys() == {"bytes"} for entry in entries.values())
  assert newest(run) == 2


def test_without_verify_digests_are_not_compared(run):
  folder, _ = stored(run)
  flip(folder / "default" / "ocdbt.process_0" / "manifest.ocdbt", 999)
  assert newest(run, verify=False) == 2  # a file that reading does not need
  assert newest(run) == 1


def test_a_manifest_of_sizes_alone_is_read(run):
  """As earlier versions wrote it."""
  folder, names = stored(run)
  entries = json.loads((folder / "files.json").read_text())
  sizes = {name: entry["bytes"] for name, entry in entries.items()}
  (folder / "files.json").write_text(json.dumps(sizes))
  assert newest(run) == 2
  (folder / "default" / names[0]).write_bytes(b"")
  assert newest(run) == 1


def test_a_file_more_is_no_damage(run):
  folder, _ = stored(run)
  (folder / "default" / "d" / "more").write_bytes(b"more")
  (folder / "default" / "note.txt").write_text("note")
  assert newest(run) == 2


def test_a_flipped_bit_of_the_manifest_is_found_or_does_no_harm(run):
  """In none of its places does another error come of it."""
  folder, _ = stored(run)
  path, outcomes = folder / "files.json", {"fine": 0, "found": 0}
  rng = random.Random(0)
  for _ in range(300):
    bit = rng.randrange(8 * path.stat().length)
    flip(path, bit)
    try:
      manifest.check(folder)
      outcomes["fine"] += 1
    except orbax_reader.BrokenError:
      outcomes["found"] += 1
    flip(path, bit)
  assert outcomes["found"] > 200 and outcomes["fine"] < 50, outcomes


@pytest.mark.parametrize(
  "text", ["[]", "3", "{", '{"d": "x"}', '{"d": {"crc32": "0"}}', "\xff"]
)
def test_a_manifest_of_another_form_is_broken(run, text):
  folder, _ = stored(run)
  (folder / "files.json").write_bytes(text.encode("latin-1"))
  with pytest.raises(orbax_reader.BrokenError, match=r"files\.json"):
    manifest.check(folder)


PROGRAM = """
import sys
import jax
import numpy as np
from ccl_jax.processes import distributed
from ccl_jax.checkpoints import manager, manifest, restore
from tests.training import states
distributed.initialize(sys.argv[-1].split("=")[1])
index, folder = jax.process_index(), sys.argv[1]
values = np.arange(4096, dtype=np.float32).reshape(64, 64)

def array(seed, sharding):
  return jax.make_array_from_callback(
    values.shape, sharding, lambda at: values[at] + np.float32(seed)
  )

sharding = states.sharding(2, values.shape)
# By the clock of process 0 each step is due, by that of process 1 none.
minutes = 1e-6 if index == 0 else 1e6
checkpoints = manager.CheckpointManager(folder, 1000, every_minutes=minutes)
for step in range(1, 4):
  if checkpoints.should_save(step):
    checkpoints.save(step, {"a": array(step, sharding)})
checkpoints.close()
saved = restore.all_steps(folder)
print("saved", saved)

small = manager.CheckpointManager(f"{folder} small", save_interval_steps=1)
copies = states.sharding(2, (1,))  # process 0 writes what both have
one = jax.make_array_from_callback((1,), copies, lambda at: np.ones(1)[at])
small.save(1, {"a": one})
small.close()
manifest.check(small.folder / "1")
print("small", [p.name for p in small.folder.glob("1/default/ocdbt*")])

folder = checkpoints.folder / str(saved[-1])
share = []
compute = manifest.compute_digests
manifest.compute_digests = lambda f, names: share.extend(names) or compute(
  f, names
)
manifest.check(folder)
print("share", " ".join(map(str, share)))
distributed.barrier("checked")
if index == 0:  # one bit of what process 1 has written
  (path,) = folder.glob("default/ocdbt.process_1/d/*")
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 4
  path.write_bytes(data)
distributed.barrier("changed")
checkpoints = manager.CheckpointManager(sys.argv[1])
shapes = states.shapes({"a": array(0, sharding)}, 2)
state, step = checkpoints.restore_latest(shapes)
checkpoints.close()
print("restored", step)
distributed.shutdown()
"""


def test_two_processes_save_together_and_share_the_check(tmp_path):
  texts = []
  for process in commands.start_two("-c", PROGRAM, tmp_path):
    status, text = commands.finish(process)
    assert status == 0, text
    texts.append(text.splitlines())
  shares = [
    set(line.removeprefix("share ").split())
    for text in texts
    for line in text
    if line.startswith("share ")
  ]
  for text in texts:
    assert "saved [1, 2, 3]" in text and "restored 2" in text
    assert "small ['ocdbt.process_0']" in text
  folder = tmp_path / "checkpoints.broken" / "3"
  entries = json.loads((folder / "files.json").read_text())
  assert shares[0] | shares[1] == set(entries)
  assert not shares[0] & shares[1] and min(map(len, shares)) > 3
  assert all("crc32" in entry for entry in entries.values())


def test_in_a_bucket():
  folder = bucket.make() / "2"
  for name in ("ocdbt.process_0/d/a", "d/b", "_METADATA"):
    (folder / "default" / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / "default" / name).write_bytes(name.encode() * 1000)
  manifest.write(folder)
  assert set(files.file_sizes(folder)) == {
    "files.json", "default/ocdbt.process_0/d/a", "default/d/b",
    "default/_METADATA",
  }  # fmt: skip
  manifest.check(folder)
  flip(folder / "default" / "d" / "b", 1234)
  with pytest.raises(orbax_reader.BrokenError, match="d/b has changed"):
    manifest.check(folder)

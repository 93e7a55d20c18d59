"""Checkpoints of a run: saved, kept, restored, and skipped if damaged."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.checkpoints import (
  manager,
  manifest,
  orbax_reader,
  restore,
  streaming,
)
from tests.training import states


def save(workdir, *steps, keep=3, **kwargs):
  """Checkpoints whose values follow from their steps."""
  with_all = manager.CheckpointManager(
    workdir, save_interval_steps=1, max_to_keep=keep
  )
  for step in steps:
    with_all.save(step, states.make(seed=step, **kwargs))
  with_all.close()


def newest(workdir, count=1):
  checkpoints = manager.CheckpointManager(workdir)
  try:
    return checkpoints.restore_latest(states.shapes(states.make(), count))
  finally:
    checkpoints.close()


def files(workdir, step):
  folder = workdir / "checkpoints" / str(step)
  return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_new_run_has_nothing_to_restore(tmp_path):
  assert newest(tmp_path) is None


@pytest.mark.parametrize(("before", "after"), [(4, 2), (2, 8), (8, 1)])
def test_arrays_go_straight_to_other_devices(tmp_path, before, after):
  save(tmp_path, 3, count=before)
  state, step = newest(tmp_path, after)
  assert step == 3
  states.assert_equal(state, states.make(seed=3))
  placed = state["trainable"]["video"]["in"]
  assert len(placed.sharding.device_set) == after
  assert placed.addressable_shards[0].data.size == placed.size // after


def test_a_step_is_due_at_intervals_and_saved_once(tmp_path):
  checkpoints = manager.CheckpointManager(
    tmp_path, save_interval_steps=3, max_to_keep=9
  )
  for step in range(1, 8):
    for _ in range(2):
      if checkpoints.should_save(step) or step == 7:
        checkpoints.save(step, states.make(seed=step))
  checkpoints.close()
  found = {int(p.name) for p in (tmp_path / "checkpoints").iterdir()}
  assert found == {3, 6, 7}


def test_only_the_last_are_kept(tmp_path):
  save(tmp_path, 1, 2, 3, 4, keep=2)
  assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"3", "4"}


def test_the_best_is_kept_beside_the_last(tmp_path):
  """Also by the next process; a step without a value is none."""
  values = {1: 3.0, 2: 1.0, 3: None, 4: 2.0, 5: None, 6: 1.0, 7: 9.0, 8: None}
  kept = {4: {2, 4}, 5: {2, 5}, 6: {6}, 8: {6, 8}}
  for steps in ((1, 2, 3, 4), (5,), (6,), (7, 8)):
    checkpoints = manager.CheckpointManager(
      tmp_path, save_interval_steps=1, max_to_keep=1, keep_best="loss"
    )
    for step in steps:
      checkpoints.save(step, states.make(seed=step), value=values[step])
    checkpoints.close()
    assert set(restore.all_steps(tmp_path)) == kept[step]
    best = min(kept[step])
    assert checkpoints.best_step() == restore.best_step(tmp_path) == best
    folder = tmp_path / "checkpoints" / str(best)
    assert restore.find_checkpoint(tmp_path, "best") == (folder, best)
  state, step = newest(tmp_path)
  assert step == 8
  states.assert_equal(state, states.make(seed=8))
  # By another metric from now on: the old values do not count.
  checkpoints = manager.CheckpointManager(
    tmp_path, save_interval_steps=1, max_to_keep=1, keep_best="held_out/loss"
  )
  checkpoints.save(9, states.make(seed=9), value=100.0)
  checkpoints.save(10, states.make(seed=10), value=200.0)
  checkpoints.close()
  assert restore.best_step(tmp_path) == checkpoints.best_step() == 9
  assert restore.all_steps(tmp_path) == [9, 10]


def test_of_shares_the_highest_is_the_best(tmp_path):
  """Also by the next process."""
  name = "held_out/share/a2v/EAC"
  for values in ({1: -0.5, 2: 0.4}, {3: 0.1, 4: None, 5: 0.2}):
    checkpoints = manager.CheckpointManager(
      tmp_path, save_interval_steps=1, max_to_keep=1, keep_best=name
    )
    for step, value in values.items():
      checkpoints.save(step, states.make(seed=step), value=value)
    checkpoints.close()
    assert checkpoints.best_step() == restore.best_step(tmp_path) == 2
  assert restore.all_steps(tmp_path) == [2, 5]


@pytest.mark.parametrize("name", ["run [v1]", "run *", "run ?", "run \\x"])
def test_folders_in_which_orbax_loses_arrays_are_refused(tmp_path, name):
  with pytest.raises(ValueError, match="in its path, which Orbax takes for"):
    manager.CheckpointManager(tmp_path / name)
  with pytest.raises(ValueError, match="in its path, which Orbax takes for"):
    manager.CheckpointManager(tmp_path / "run", emergency_folder=name)
  with pytest.raises(ValueError, match="choose another folder"):
    streaming.write_arrays(tmp_path / name, {"x": np.ones(3)})
  assert not (tmp_path / name).exists()


def test_a_run_without_a_best_says_so(tmp_path):
  save(tmp_path, 1, 2)
  with pytest.raises(ValueError, match=r"no best.*keep_best.*\[1, 2\]"):
    restore.find_checkpoint(tmp_path, "best")


def test_a_save_that_did_not_save_is_an_error(tmp_path):
  save(tmp_path, 5)
  checkpoints = manager.CheckpointManager(tmp_path, save_interval_steps=1)
  with pytest.raises(RuntimeError, match=r"did not save step 4.*\[5\]"):
    checkpoints.save(4, states.make())
  checkpoints.close()


def test_a_save_that_fails_in_the_background_is_an_error(tmp_path, monkeypatch):
  def fail(folder, digests):
    raise OSError("no space left")

  monkeypatch.setattr(manifest, "write", fail)
  checkpoints = manager.CheckpointManager(tmp_path, save_interval_steps=1)
  checkpoints.save(1, states.make())
  with pytest.raises(OSError, match="no space left"):
    checkpoints.save(2, states.make())
  checkpoints.close()
  monkeypatch.undo()
  # What it had written is not taken for a checkpoint, nor in the way of one.
  assert list((tmp_path / "checkpoints").iterdir())
  assert not manager.restore.all_steps(tmp_path)
  save(tmp_path, 1)
  assert newest(tmp_path)[1] == 1


def damage(path, how):
  if how == "gone":
    path.unlink()
  else:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("how", ["gone", "cut"])
def test_any_damaged_file_leads_to_the_checkpoint_before(tmp_path, caplog, how):
  save(tmp_path, 1, 2, count=4)
  whole = {path: path.read_bytes() for path in files(tmp_path, 2)}
  kinds = ("/d/", "manifest.ocdbt", "_METADATA", "array_metadatas", "_sharding")
  assert all(any(kind in str(path) for path in whole) for kind in kinds)
  needed = 0
  for path, content in whole.items():
    caplog.clear()
    damage(path, how)
    with caplog.at_level(logging.WARNING):
      state, step = newest(tmp_path, 2)
    states.assert_equal(state, states.make(seed=step))
    broken = tmp_path / "checkpoints.broken" / "2"
    if step == 1:
      needed += 1
      assert f"{tmp_path}/checkpoints/2" in caplog.text
      assert path.name in caplog.text
      broken.rename(tmp_path / "checkpoints" / "2")
    assert not broken.exists()
    path.write_bytes(content)
  # All but Orbax's own notes and the manifest.
  assert needed >= len(whole) - 4


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_damage_is_found_without_the_list_of_files_too(tmp_path, caplog):
  save(tmp_path, 1, 2)
  for path in files(tmp_path, 2):
    if path.name == "files.json" or path.parent.name == "d":
      path.unlink()
  with caplog.at_level(logging.WARNING):
    state, step = newest(tmp_path)
  assert step == 1 and "checkpoints/2/default' cannot be read" in caplog.text
  states.assert_equal(state, states.make(seed=1))


def test_a_step_whose_checkpoint_broke_is_saved_again(tmp_path):
  save(tmp_path, 1, 2, 3, keep=2)
  damage(tmp_path / "checkpoints" / "3" / "default" / "_METADATA", "gone")
  checkpoints = manager.CheckpointManager(
    tmp_path, save_interval_steps=1, max_to_keep=2
  )
  state, step = checkpoints.restore_latest(states.shapes(states.make()))
  assert step == 2
  checkpoints.save(3, state)
  checkpoints.save(4, state)
  checkpoints.close()
  assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"3", "4"}
  assert (tmp_path / "checkpoints.broken" / "3").is_dir()


def test_all_checkpoints_broken_is_an_error_that_names_them(tmp_path):
  save(tmp_path, 1, 2)
  for step in (1, 2):
    damage(tmp_path / f"checkpoints/{step}/default/manifest.ocdbt", "cut")
  with pytest.raises(ValueError, match=r"checkpoints/2.*checkpoints/1"):
    newest(tmp_path)
  # They are still there: a second start does not begin anew.
  with pytest.raises(ValueError, match="can be read"):
    newest(tmp_path)


def test_of_another_model_it_is_an_error_that_shows_the_difference(tmp_path):
  save(tmp_path, 1, width=4, skip=("audio",))
  with pytest.raises(ValueError, match="another model") as error:
    newest(tmp_path)
  text = str(error.value)
  assert "only expected: ema/audio/in (8, 24)" in text
  assert "ema/video/in: saved (4, 16), expected (8, 16)" in text
  assert "and " in text.splitlines()[-1] and len(text.splitlines()) <= 12
  assert (tmp_path / "checkpoints" / "1").is_dir()


@pytest.mark.parametrize(
  "wrong",
  [{"save_interval_steps": 0}, {"max_to_keep": 0}, {"every_minutes": -1}],
)
def test_wrong_settings_are_errors(tmp_path, wrong):
  with pytest.raises(ValueError, match=r"at least [01]"):
    manager.CheckpointManager(tmp_path, **wrong)
  assert not list(tmp_path.iterdir())


def test_large_arrays_are_stored_in_chunks(tmp_path, monkeypatch):
  """Stacked layers row by row; what a device has little of, as it has it."""
  monkeypatch.setattr(manager, "CHUNK_BYTES", 400)
  shapes = {"layers": (3, 8, 16), "small": (3, 4, 8), "flat": (8, 32)}
  rng = np.random.default_rng(0)
  state = {s: jnp.asarray(rng.normal(size=x)) for s, x in shapes.items()}
  spread = states.sharding(4, (3, 8, 4))
  state["spread"] = jax.device_put(np.ones((3, 8, 4), np.float32), spread)
  checkpoints = manager.CheckpointManager(tmp_path, save_interval_steps=1)
  checkpoints.save(1, state)
  checkpoints.close()
  folder = checkpoints.folder / "1"
  found = orbax_reader.read_tree(folder / "default", states.shapes(state))
  states.assert_equal(found, state)
  stored = streaming.open_arrays(folder / "default")
  assert {s: x.chunk_shape for s, x in stored.items()} == {
    "layers": (1, 8, 8), "small": (3, 4, 8), "flat": (8, 8),
    "spread": (3, 2, 4),
  }  # fmt: skip


@pytest.mark.parametrize("after", [1, 4])
def test_arrays_of_size_zero_are_made_anew(tmp_path, after):
  """Orbax cannot store them: weights, their average and moments of width 0."""
  state = states.make(seed=3, width=0)
  assert sum(not x.size for x in jax.tree.leaves(state)) == 12
  save(tmp_path, 3, width=0)
  checkpoints = manager.CheckpointManager(tmp_path)
  found, step = checkpoints.restore_latest(states.shapes(state, after))
  checkpoints.close()
  assert step == 3
  states.assert_equal(found, state)
  shapes = states.shapes(state["ema"], after)
  params, _ = restore.read_params(tmp_path, shapes)
  states.assert_equal(params, state["ema"])


def test_a_model_with_arrays_of_size_zero_is_another_model(tmp_path):
  save(tmp_path, 3, width=0)
  with pytest.raises(ValueError, match=r"only expected: .*video/in"):
    newest(tmp_path)

"""Parameters of one or more runs, as those of a new model."""

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from ccl_jax.checkpoints import manager, restore
from tests.training import states


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  """A run of a video tower on 4 devices, and one of an audio tower."""
  folder = tmp_path_factory.mktemp("runs")
  for name, seed, skip in (
    ("video", 1, ("audio", "fusion")),
    ("audio", 2, ("video", "fusion")),
  ):
    checkpoints = manager.CheckpointManager(
      folder / name, save_interval_steps=1
    )
    for step in (seed, 10 * seed):
      checkpoints.save(step, states.make(count=4, seed=step, skip=skip))
    checkpoints.close()
  return folder


def shapes(count=2):
  return states.shapes(states.make()["trainable"], count)


def sources(runs):
  return [("video/.*", runs / "video"), ("audio/.*", runs / "audio")]


def test_two_towers_become_one_model(runs):
  got = restore.initial_params(shapes(), sources(runs), ["fusion/.*"])
  video = states.make(seed=10, skip=("audio", "fusion"))["ema"]["video"]
  audio = states.make(seed=20, skip=("video", "fusion"))["ema"]["audio"]
  expected = {
    "video/in": video["in"], "video/layers/mlp": video["layers"]["mlp"],
    "audio/in": audio["in"],
  }  # fmt: skip
  assert got.keys() == expected.keys()
  for path, array in expected.items():
    np.testing.assert_array_equal(got[path], array)
    assert len(got[path].sharding.device_set) == 2


def test_only_what_is_needed_is_read(runs, monkeypatch):
  read = []
  handler = ocp.type_handlers.ArrayHandler.deserialize

  async def count(self, infos, args=None):
    read.extend(info.name for info in infos)
    return await handler(self, infos, args)

  monkeypatch.setattr(ocp.type_handlers.ArrayHandler, "deserialize", count)
  restore.initial_params(shapes(), sources(runs), ["fusion/.*"])
  assert sorted(read) == [
    "ema.audio.in",
    "ema.video.in",
    "ema.video.layers.mlp",
  ]


@pytest.mark.parametrize(
  ("chosen", "new", "words"),
  [
    (2, [], "fusion/gate"),
    (1, ["fusion/.*"], "audio/in"),
    (2, ["fusion/.*", "fussion/.*"], "fussion"),
    (2, ["fusion/.*", "video/nowhere"], "nowhere"),
  ],
)
def test_every_parameter_has_an_origin(runs, chosen, new, words):
  with pytest.raises(ValueError, match=words):
    restore.initial_params(shapes(), sources(runs)[:chosen], new)


def test_what_the_source_lacks_or_has_otherwise_is_named(runs):
  every = [(".*", runs / "video")]
  with pytest.raises(ValueError, match="only expected: audio/in"):
    restore.initial_params(shapes(), every, [])
  wide = states.shapes(states.make(width=16)["trainable"])
  text = r"audio/in: saved \(8, 24\), expected \(16, 24\)"
  with pytest.raises(ValueError, match=text):
    restore.initial_params(wide, sources(runs), ["fusion/.*"])
  with pytest.raises(ValueError, match="No checkpoint in"):
    restore.initial_params(shapes(), [(".*", runs / "nobody")], [])


def test_parameters_are_read_by_step_onto_one_device(runs):
  skip = ("audio", "fusion")
  whole = jax.eval_shape(lambda: states.make(skip=skip)["trainable"])
  for chosen, step in ((1, 1), (10, 10), (None, 10)):
    params, got = restore.read_params(runs / "video", whole, chosen)
    assert got == step
    states.assert_equal(params, states.make(seed=step, skip=skip)["ema"])
  last, _ = restore.read_params(runs / "video", whole, average=False)
  states.assert_equal(last, states.make(seed=10, skip=skip)["trainable"])
  assert len(last["video"]["in"].sharding.device_set) == 1
  with pytest.raises(ValueError, match=r"step 9.*\[1, 10\]"):
    restore.read_params(runs / "video", whole, 9)
  with pytest.raises(ValueError, match="none"):
    restore.read_params(runs, whole)


def test_a_relative_path_will_do(runs, monkeypatch):
  monkeypatch.chdir(runs)
  _, step = restore.read_params("audio", {})
  assert step == 20


def test_a_broken_checkpoint_is_a_plain_error(tmp_path):
  checkpoints = manager.CheckpointManager(tmp_path, save_interval_steps=1)
  checkpoints.save(1, states.make())
  checkpoints.close()
  next((tmp_path / "checkpoints" / "1").rglob("array_metadatas/*")).unlink()
  with pytest.raises(ValueError, match="process_0 is gone"):
    restore.read_params(tmp_path, shapes())
  with pytest.raises(ValueError, match="process_0 is gone"):
    restore.initial_params(shapes(), [(".*", tmp_path)], [])

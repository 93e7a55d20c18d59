"""Runs of other chips and earlier versions are loaded and sampled from."""

import json
import shutil

import numpy as np
import pytest

from ccl_jax.config import RENAMED, upgrade
from ccl_jax.generation.pipeline import Pipeline

OLD_NAMES = {new: old for old, new in RENAMED.items()}


def of_another_pod(config):
  """Sections that only training reads may hold what is not valid here."""
  return config | {
    "xla_options": ["no_sparse_core"],
    "mesh": {"data": 64, "fsdp": 4},
    "optimizer": config["optimizer"] | {"unknown": 1},
  }


def of_an_earlier_version(config, prefix=""):
  """The reverse of `ccl_jax.config.upgrade`."""
  old = {}
  for key, value in config.items():
    path = f"{prefix}{key}"
    if isinstance(value, dict):
      value = of_an_earlier_version(value, f"{path}.")
    if path == "sharding.activations":
      value = [["text" if r == "batch" else r, spec] for r, spec in value]
    old[OLD_NAMES.get(path, key).rpartition(".")[2]] = value
  return old


@pytest.mark.parametrize("change", [of_another_pod, of_an_earlier_version])
def test_a_stored_config_makes_the_same_samples(
  run, pipeline, tmp_path, change
):
  shutil.copytree(run, tmp_path / "run")
  path = tmp_path / "run" / "config.json"
  config = json.loads(path.read_text())
  path.write_text(json.dumps(change(config)))
  loaded = Pipeline.load(tmp_path / "run")
  assert loaded.plan.settings == pipeline.plan.settings
  assert loaded.sampling == pipeline.sampling
  (made,), (expected,) = (p("t2a", ["A hum."]) for p in (loaded, pipeline))
  np.testing.assert_array_equal(made.audio, expected.audio)


def test_every_key_gets_its_new_name_back(run):
  config = json.loads((run / "config.json").read_text())
  old = of_an_earlier_version(config)
  assert old["sampling"]["steps"] == 2 and "init" not in old
  assert upgrade(old) | {"sharding": 0} == config | {"sharding": 0}
  assert [tuple(rule) for rule in upgrade(old)["sharding"]["activations"]] == [
    tuple(rule) for rule in config["sharding"]["activations"]
  ]

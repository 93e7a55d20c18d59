"""The tables that `inspect` prints, for each kind of checkpoint."""

import numpy as np
import pytest
import safetensors.numpy

from ccl_jax.checkpoints import manager
from ccl_jax.codecs import converted_weights
from ccl_jax.convert import inspection
from tests.training import states


def rows(path, **options):
  text = inspection.report(path, **options)
  return [line.split() for line in text.splitlines()]


def test_converted_weights(tmp_path):
  params = {"a": {str(i): np.zeros(4, np.float16) for i in range(3)}}
  converted_weights.write(tmp_path / "w", params, {"model": "tiny"})
  found = rows(tmp_path / "w")
  assert ["model:", '"tiny"'] in found
  assert ["3", "x", "a/*", "(4,)", "float16"] in found
  assert ["all", "3", "12", "0.000"] in found
  each = rows(tmp_path / "w", list_all=True)
  assert all(["1", "x", f"a/{i}", "(4,)", "float16"] in each for i in range(3))


def test_a_run_and_a_step_of_it(tmp_path):
  checkpoints = manager.CheckpointManager(
    tmp_path / "run", save_interval_steps=1
  )
  for step in (1, 2):
    checkpoints.save(step, states.make(seed=step))
  checkpoints.close()
  found = rows(tmp_path / "run")
  assert found[0] == ["steps:", "1,", "2;", "shown:", "2"]
  parts = {row[0] for row in found if row}
  assert {"trainable/video", "ema/audio", "all"} <= parts
  again = rows(tmp_path / "run" / "checkpoints" / "2")
  assert again[1:] == found[2:]


def test_numbers_inside_of_words_are_names(tmp_path):
  params = {"conv1": np.zeros(2, np.float32), "conv2": np.zeros(2, np.float32)}
  converted_weights.write(tmp_path / "w", params, {})
  assert ["1", "x", "conv1", "(2,)", "float32"] in rows(tmp_path / "w")


def test_the_entries_of_a_header_are_in_order(tmp_path):
  arrays, names = {"a": np.zeros(2, np.float32)}, "hgfedcbaponmlkji"
  metadata = dict.fromkeys(names, "x")
  safetensors.numpy.save_file(arrays, tmp_path / "a.safetensors", metadata)
  shown = rows(tmp_path / "a.safetensors")[: len(names)]
  assert shown == [[f"{name}:", "x"] for name in sorted(names)]


def test_nothing_to_read(tmp_path):
  with pytest.raises(ValueError, match="No file"):
    inspection.report(tmp_path / "nothing")
  (tmp_path / "run" / "checkpoints").mkdir(parents=True)
  with pytest.raises(ValueError, match="no finished checkpoint"):
    inspection.report(tmp_path / "run")

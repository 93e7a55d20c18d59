"""Folders of converted weights are complete or absent."""

import jax
import numpy as np
import pytest

from ccl_jax.checkpoints.streaming import StreamedArray
from ccl_jax.codecs import converted_weights

PARAMS = {"encoder": {"0": {"kernel": np.arange(6.0, dtype=np.float32)}}}
SHAPES = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), PARAMS)
METADATA = {"model": "tiny", "settings": {"width": 6}, "licence": "MIT"}


def test_round_trip(tmp_path):
  assert not converted_weights.exists(tmp_path / "w")
  converted_weights.write(tmp_path / "w", PARAMS, METADATA)
  assert converted_weights.exists(tmp_path / "w")
  assert converted_weights.read_metadata(tmp_path / "w") == METADATA
  found = converted_weights.read(tmp_path / "w", SHAPES)
  jax.tree.map(np.testing.assert_array_equal, found, PARAMS)
  assert [path.name for path in tmp_path.iterdir()] == ["w"]


def test_nothing_is_left_of_a_failure(tmp_path):
  def parts():
    yield 0, np.zeros(3)
    raise ValueError("the file was cut short")

  lazy = StreamedArray((2, 3), np.dtype(np.float32), parts)
  with pytest.raises(ValueError, match="cut short"):
    converted_weights.write(tmp_path / "w", {"a": lazy}, METADATA)
  assert not list(tmp_path.iterdir())


def test_a_failure_leaves_the_old_one(tmp_path):
  converted_weights.write(tmp_path / "w", PARAMS, METADATA)
  huge = StreamedArray((10**9, 10**9), np.dtype(np.float32), lambda: iter(()))
  with pytest.raises(ValueError, match="GB"):
    converted_weights.write(tmp_path / "w", {"a": huge}, {})
  assert converted_weights.read_metadata(tmp_path / "w") == METADATA


def test_other_folders_and_other_models(tmp_path):
  with pytest.raises(ValueError, match="not a folder of converted weights"):
    converted_weights.read(tmp_path, SHAPES)
  converted_weights.write(tmp_path / "w", PARAMS, METADATA)
  with pytest.raises(ValueError, match="another model"):
    converted_weights.read(tmp_path / "w", {"decoder": SHAPES["encoder"]})

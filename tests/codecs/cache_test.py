"""Folders of converted weights are whole or absent."""

import jax
import numpy as np
import pytest

from ccl_jax.arrays import Lazy
from ccl_jax.codecs import cache

PARAMS = {"encoder": {"0": {"kernel": np.arange(6.0, dtype=np.float32)}}}
SHAPES = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), PARAMS)
ABOUT = {"model": "tiny", "settings": {"width": 6}, "licence": "MIT"}


def test_round_trip(tmp_path):
  assert not cache.exists(tmp_path / "w")
  cache.write(tmp_path / "w", PARAMS, ABOUT)
  assert cache.exists(tmp_path / "w")
  assert cache.about(tmp_path / "w") == ABOUT
  found = cache.read(tmp_path / "w", SHAPES)
  jax.tree.map(np.testing.assert_array_equal, found, PARAMS)
  assert [path.name for path in tmp_path.iterdir()] == ["w"]


def test_nothing_is_left_of_a_failure(tmp_path):
  def parts():
    yield 0, np.zeros(3)
    raise ValueError("the file was cut short")

  lazy = Lazy((2, 3), np.dtype(np.float32), parts)
  with pytest.raises(ValueError, match="cut short"):
    cache.write(tmp_path / "w", {"a": lazy}, ABOUT)
  assert not list(tmp_path.iterdir())


def test_a_failure_leaves_the_old_one(tmp_path):
  cache.write(tmp_path / "w", PARAMS, ABOUT)
  huge = Lazy((10**9, 10**9), np.dtype(np.float32), lambda: iter(()))
  with pytest.raises(ValueError, match="GB"):
    cache.write(tmp_path / "w", {"a": huge}, {})
  assert cache.about(tmp_path / "w") == ABOUT


def test_other_folders_and_other_models(tmp_path):
  with pytest.raises(ValueError, match="not a folder of converted weights"):
    cache.read(tmp_path, SHAPES)
  cache.write(tmp_path / "w", PARAMS, ABOUT)
  with pytest.raises(ValueError, match="another model"):
    cache.read(tmp_path / "w", {"decoder": SHAPES["encoder"]})

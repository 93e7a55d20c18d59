"""Batches of any size on a mesh."""

import jax
import numpy as np
import pytest

from ccl_jax.codecs import runner
from ccl_jax.params.sharding import make_mesh


@pytest.mark.parametrize("rows", [1, 3, 4, 5])
def test_rows_are_padded_and_cut(rows):
  mesh = make_mesh(jax.devices()[:4], data=2, fsdp=2)
  layout = runner.make_layout(mesh)
  x = np.random.default_rng(0).normal(size=(rows, 2)).astype(np.float32)
  padded = []

  def double(x):
    padded.append(x)
    return 2 * x

  np.testing.assert_array_equal(runner.run_batch(double, layout, x), 2 * x)
  (y,) = padded
  assert len(y) % 4 == 0 and len(y) < rows + 4
  assert y.sharding.is_equivalent_to(layout.rows(), 2)
  np.testing.assert_array_equal(y[rows:], np.repeat(x[-1:], len(y) - rows, 0))

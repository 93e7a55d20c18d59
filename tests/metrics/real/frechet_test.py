"""Frechet distance against its closed form."""

import numpy as np
import pytest

from ccl_jax.metrics.real.frechet import frechet_distance, gaussian_distance


def test_diagonal_gaussians():
  a, b = np.array([1.0, 4.0, 0.0]), np.array([9.0, 1.0, 2.0])
  found = gaussian_distance(np.zeros(3), np.diag(a), np.ones(3), np.diag(b))
  expected = 3 + ((a**0.5 - b**0.5) ** 2).sum()
  assert found == pytest.approx(expected, rel=1e-12)


def test_gaussians_that_do_not_commute():
  """By scipy's root of the product, which is not symmetric."""
  import scipy.linalg

  rng = np.random.default_rng(0)
  a, b = (x @ x.T for x in rng.normal(size=(2, 5, 5)))
  mean = rng.normal(size=5)
  root = scipy.linalg.sqrtm(a @ b).real
  expected = mean @ mean + np.trace(a + b - 2 * root)
  found = gaussian_distance(np.zeros(5), a, mean, b)
  assert found == pytest.approx(expected, rel=1e-9)


def test_fewer_clips_than_channels():
  x = np.random.default_rng(0).normal(size=(4, 32)).astype(np.float32)
  assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
  moved = frechet_distance(x, x + 2)
  assert moved == pytest.approx(4 * 32, rel=1e-6)


@pytest.mark.parametrize("shape", [(1, 3), (4, 2)])
def test_sets_that_cannot_be_compared(shape):
  with pytest.raises(ValueError, match="expected two rows or more"):
    frechet_distance(np.ones((4, 3)), np.ones(shape))

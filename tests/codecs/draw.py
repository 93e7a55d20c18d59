"""Random parameters."""

import numpy as np

from ccl_jax.params import trees


def draw(shapes, seed=0):
  """Returns random leaves, not near zero, so that a missing term shows."""
  rng = np.random.default_rng(seed)
  drawn = {
    path: 0.3 * rng.standard_normal(x.shape) + path.endswith("/scale")
    for path, x in trees.flatten(shapes).items()
  }
  return trees.unflatten({k: np.float32(x) for k, x in drawn.items()})

"""Frechet distance between two sets of features, in float64.

  d^2 = |m1 - m2|^2 + tr(C1 + C2 - 2 (C1^1/2 C2 C1^1/2)^1/2)

with means m and unbiased covariances C. The matrix under the outer root is
symmetric and positive semidefinite, so the trace of its root is the sum of the
roots of its eigenvalues, exactly, even if covariances are singular.
"""

import numpy as np
from jaxtyping import Float


def frechet_distance(
  first: Float[np.ndarray, "n d"], second: Float[np.ndarray, "m e"]
) -> float:
  """Returns d^2 of the Gaussians that fit two sets of features.

  Raises:
    ValueError: sets of fewer than two rows, or of different widths.
  """
  if min(len(first), len(second)) < 2 or first.shape[1] != second.shape[1]:
    raise ValueError(
      f"features of shapes {first.shape} and {second.shape}: expected two rows"
      " or more of the same width."
    )
  return gaussian_distance(*_fit(first), *_fit(second))


def gaussian_distance(
  mean1: Float[np.ndarray, " d"],
  cov1: Float[np.ndarray, "d d"],
  mean2: Float[np.ndarray, " d"],
  cov2: Float[np.ndarray, "d d"],
) -> float:
  """Returns d^2 of two Gaussians."""
  values, vectors = np.linalg.eigh(cov1)
  root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
  inner = np.linalg.eigvalsh(root @ cov2 @ root)
  trace = np.trace(cov1) + np.trace(cov2) - 2 * np.sqrt(inner.clip(0)).sum()
  return float(np.sum((mean1 - mean2) ** 2) + max(trace, 0.0))


def _fit(
  features: Float[np.ndarray, "n d"],
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "d d"]]:
  x = features.astype(np.float64)
  return x.mean(0), np.atleast_2d(np.cov(x, rowvar=False))

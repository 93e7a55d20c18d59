"""Every layout loses nothing, in either direction."""

import ml_dtypes
import numpy as np
import pytest

from ccl_jax.convert import layouts

DTYPES = (np.float32, ml_dtypes.bfloat16, np.float16)
CASES = {
  "same": (layouts.SAME, [(3, 4)]),
  "linear": (layouts.LINEAR, [(3, 4)]),
  "conv1d": (layouts.CONV1D, [(3, 4, 5)]),
  "conv2d": (layouts.CONV2D, [(3, 4, 5, 6)]),
  "conv3d": (layouts.CONV3D, [(3, 4, 5, 6, 7)]),
  "transpose": (layouts.CONV_TRANSPOSE1D, [(3, 4, 5)]),
  "squeezed": (layouts.relayout("1 d 1 1", "d"), [(1, 7, 1, 1)]),
  "joined": (
    layouts.relayout("o i 1 p q", "(i p q) o", p=1, q=1),
    [(3, 4, 1, 1, 1)],
  ),
  "sizes": (layouts.relayout("(k e) i", "i e k", e=2), [(6, 5)]),
  "fused": (layouts.QKV, [(6, 5)]),
  "qkv": (layouts.QKV.then(layouts.each(layouts.LINEAR)), [(6, 5)]),
  "each": (layouts.each(layouts.LINEAR), [(2, 3), (4, 5)]),
  "half": (layouts.half_split(6).then(layouts.LINEAR), [(12, 5)]),
  "half norm": (layouts.half_split(6), [(12,)]),
}


def draw(shape, dtype, seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
@pytest.mark.parametrize("name", CASES)
def test_a_round_trip_is_exact(name, dtype):
  layout, shapes = CASES[name]
  theirs = [draw(shape, dtype, i) for i, shape in enumerate(shapes)]
  ours = layout.to_ours(*theirs)
  again = layout.to_theirs(*ours)
  for a, b in zip(theirs, again, strict=True):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)
  # And from ours: the layout hides no second way.
  for a, b in zip(ours, layout.to_ours(*again), strict=True):
    np.testing.assert_array_equal(a, b)


def test_half_split_pairs_what_wan_pairs():
  (halves,) = layouts.half_split(6).to_ours(np.arange(12))
  np.testing.assert_array_equal(halves, [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11])


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
def test_weight_norm_folds_and_comes_back(dtype):
  layout = layouts.weight_norm(layouts.CONV1D)
  v = draw((4, 3, 5), dtype)
  g = np.abs(draw((4, 1, 1), dtype, 1)) + dtype(0.5)
  (kernel,) = layout.to_ours(g, v)
  norm = np.sqrt(np.square(v.astype(np.float64)).sum((1, 2), keepdims=True))
  expected = np.transpose(g / norm * v, (2, 1, 0))
  assert kernel.dtype == dtype
  eps = float(ml_dtypes.finfo(dtype).eps)
  np.testing.assert_allclose(
    kernel.astype(np.float64), expected, rtol=2 * eps, atol=1e-7
  )
  (again,) = layout.to_ours(*layout.to_theirs(kernel))
  np.testing.assert_array_equal(again, kernel)

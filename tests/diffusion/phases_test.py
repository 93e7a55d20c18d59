"""The steps inside and outside of a window, as runs that may repeat."""

import numpy as np

from ccl_jax.diffusion import phases


def test_a_window_splits_the_schedule():
  sigmas = np.array([1, 0.8, 0.5, 0.2, 0])
  for window, runs in (
    ((0.0, 1.0), [(True, 4)]),
    ((0.5, 0.8), [(False, 1), (True, 2), (False, 1)]),
    ((0.0, 0.5), [(False, 2), (True, 2)]),
    ((0.6, 0.7), [(False, 4)]),
  ):
    assert phases.split(sigmas, window) == runs
  sigmas = np.linspace(1, 0, 10)
  period = [(True, 1), (False, 2)]
  for every, window, runs, inside in (
    (3, (0.0, 1.0), [(period, 3)], 3),
    (3, (0.0, 0.95), [(False, 1), (period, 2), (True, 1), (False, 1)], 3),
    (4, (0.3, 1.0), [([(True, 1), (False, 3)], 1), (True, 1), (False, 4)], 2),
    (9, (0.95, 1.0), [(True, 1), (False, 8)], 1),
  ):
    found = phases.split(sigmas, window, every)
    assert [r for r in found if r[0] is not False] == [
      r for r in runs if r[0] is not False
    ]
    assert phases.count(found, True) == inside
    assert phases.count(found, False) == 9 - inside

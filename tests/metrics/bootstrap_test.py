"""Scores of many clips, on fractions that are written down."""

import numpy as np
import pytest

from ccl_jax.metrics import bootstrap


def test_scores_are_sums_of_totals_over_sums_of_counts():
  clips = [{"SER": (2.0, 4), "EAC": (0.5, 1)}, {"SER": (0.0, 1)}, {}]
  scores = bootstrap.aggregate(clips)
  assert scores["SER"].value == 0.4 and scores["EAC"].value == 0.5
  assert scores["SER"].low <= 0.4 <= scores["SER"].high
  assert set(scores) == {"SER", "EAC"}


def test_comparing_is_paired():
  rng = np.random.default_rng(0)
  clips = [{"EAC": (float(x), 1)} for x in rng.normal(size=50)]
  better = [{"EAC": (clip["EAC"][0] + 0.1, 1)} for clip in clips]
  gain = bootstrap.compare(better, clips)["EAC"]
  np.testing.assert_allclose(gain, 0.1)
  with pytest.raises(ValueError, match="50 clips cannot be paired with 49"):
    bootstrap.compare(clips, clips[1:])


def test_shares_are_of_the_way_from_floor_to_ceiling_where_there_is_one():
  rng = np.random.default_rng(0)
  ceiling = [
    {"EAC": (0.9 + x, 1), "lag ms": (10 + x, 1), "SER": (0.0, 3)}
    for x in 0.1 * rng.normal(size=50)
  ]
  floor = [{"EAC": (0.1, 1), "lag ms": (110.0, 1), "SER": (0.0, 3)}] * 50
  clips = [{"EAC": (0.5, 1), "lag ms": (60.0, 1), "SER": (1.0, 3)}] * 50
  shares = bootstrap.share(clips, floor, ceiling)
  assert set(shares) == {"EAC", "lag ms"}
  for share in shares.values():
    assert share.low <= share.value <= share.high
    np.testing.assert_allclose(share.value, 0.5, atol=0.03)


def test_the_best_row_is_chosen_for_each_score():
  rows = [
    [{"EAC": (0.1, 1), "lag ms": (5.0, 1)}, {"EAC": (0.3, 1)}],
    [{"EAC": (0.5, 1), "lag ms": (9.0, 1)}, {"EAC": (0.0, 1)}],
  ]
  assert bootstrap.best(rows) == [
    {"EAC": (0.5, 1), "lag ms": (5.0, 1)}, {"EAC": (0.0, 1)},
  ]  # fmt: skip

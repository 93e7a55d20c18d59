"""Scores of many clips, and their 95 % bootstrap intervals.

A score of one clip is a fraction (total, count), and that of many is

    sum of totals / sum of counts                                          (1)

so a clip in which a score cannot be measured has no weight. The interval is the
middle 95 % of (1) over resampled clips. Differences and shares are paired:
they are taken within each resample.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ccl_jax.metrics.synchworld import RISING, SCORES, ClipScores


class Score(NamedTuple):
  """Score of many clips and its 95 % bootstrap interval."""

  value: float
  low: float
  high: float


Scores = dict[str, Score]  # by name


def aggregate(clips: Sequence[ClipScores], resamples: int = 1000) -> Scores:
  """Returns scores over clips, with intervals; omits those no clip has."""
  values = _resampled(clips, resamples)
  return {name: _interval(sample) for name, sample in values.items()}


def compare(
  clips: Sequence[ClipScores], baseline: Sequence[ClipScores]
) -> Scores:
  """Returns scores minus the baseline's, clip i paired with clip i.

  Raises:
    ValueError: different numbers of clips.
  """
  _check_paired(clips, baseline)
  ours, theirs = map(_resampled, (clips, baseline))
  return {
    name: _interval(ours[name] - theirs[name])
    for name in ours.keys() & theirs.keys()
  }


def share(
  clips: Sequence[ClipScores],
  floor: Sequence[ClipScores],
  ceiling: Sequence[ClipScores],
  resamples: int = 1000,
) -> Scores:
  """Returns which part of the way from floor to ceiling the scores go.

  Clips are paired. Scores whose ceiling is not surely beyond the floor have no
  such way and are omitted: a prompt tells what is said, for instance.

  Raises:
    ValueError: different numbers of clips.
  """
  _check_paired(clips, floor, ceiling)
  ours, low, high = (_resampled(c, resamples) for c in (clips, floor, ceiling))
  shares = {}
  for name in [n for n in SCORES if n in ours and n in low and n in high]:
    way = high[name] - low[name]
    if np.nanmin(np.sign(way[0]) * np.nanpercentile(way, (2.5, 97.5))) > 0:
      way[way == 0] = np.nan  # of a resample with too few clips
      shares[name] = _interval((ours[name] - low[name]) / way)
  return shares


def pool(same: Sequence[ClipScores]) -> ClipScores:
  """Adds up the totals and counts of one prompt's clips."""
  return {
    name: tuple(map(sum, zip(*(clip[name] for clip in same), strict=True)))
    for name in same[0]
  }


def best(rows: Sequence[Sequence[ClipScores]]) -> list[ClipScores]:
  """Returns for each score the clips of the row that is best in it."""
  values = [_resampled(row, 0) for row in rows]
  chosen = {}
  for name in set().union(*values):
    sign = 1 if name in RISING else -1
    chosen[name] = max(
      (i for i, v in enumerate(values) if name in v),
      key=lambda i, name=name, sign=sign: sign * values[i][name][0],
    )
  return [
    {k: rows[i][n][k] for k, i in chosen.items() if k in rows[i][n]}
    for n in range(len(rows[0]))
  ]


def _check_paired(clips, *others) -> None:
  for other in others:
    if len(clips) != len(other):
      raise ValueError(
        f"{len(clips)} clips cannot be paired with {len(other)} clips."
      )


def _resampled(clips, resamples: int = 1000) -> dict[str, np.ndarray]:
  """Returns each score of the clips, then of `resamples` bootstrap samples.

  The seed is fixed: `compare` pairs equal samples of equally many clips.
  """
  num = len(clips)
  samples = np.random.default_rng(0).multinomial(
    num, np.full(num, 1 / num), resamples
  )
  weights = np.concatenate([np.ones((1, num)), samples])
  values = {}
  for name in SCORES:
    fractions = np.array([clip.get(name, (0, 0)) for clip in clips], float)
    if fractions[:, 1].any():
      totals, counts = (weights @ fractions).T
      missing = np.full(len(weights), np.nan)
      values[name] = np.divide(totals, counts, out=missing, where=counts > 0)
  return values


def _interval(values: np.ndarray) -> Score:
  low, high = np.nanpercentile(values, (2.5, 97.5))
  return Score(float(values[0]), float(low), float(high))

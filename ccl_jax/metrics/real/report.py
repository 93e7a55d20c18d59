"""Scores of all clips as a table."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ccl_jax.metrics.real.metric import Metric
from ccl_jax.metrics.real.rows import FAILED, Features, Row

_RESAMPLES = 1000


class Summary(NamedTuple):
  """A score of all clips, half of its 95 % bootstrap interval, and its count.

  `interval` is None where clips cannot be drawn anew, or there is one only.
  """

  value: float
  interval: float | None
  clips: int


def summarize(
  name: str, metric: Metric, rows: Sequence[Row]
) -> dict[str, Summary]:
  """Returns column -> its score over the clips that have it."""
  scores = [row["scores"][name] for row in rows if name in row["scores"]]
  found = {}
  for column in metric.columns:
    values = np.array([s[column] for s in scores if column in s])
    if len(values):
      half = _half_interval(np.mean, values)
      found[column] = Summary(float(values.mean()), half, len(values))
  if metric.totals and scores:
    totals, records = metric.totals, np.array(scores, object)
    for column, value in totals(scores).items():
      half = _half_interval(lambda x, c=column: totals(list(x))[c], records)
      found[column] = Summary(value, half, len(scores))
  return found


def compare(
  name: str,
  metric: Metric,
  rows: Sequence[Row],
  reference: Sequence[Row],
  features: Features,
) -> dict[str, Summary]:
  """Returns column -> distance of the clips to the reference; {} without one.

  Two clips of each at least are needed.
  """
  if metric.compare is None:
    return {}
  ours, theirs = (features.load(name, x) for x in (rows, reference))
  if min(len(ours), len(theirs)) < 2:
    return {}
  values = metric.compare(ours, theirs)
  return {c: Summary(x, None, len(ours)) for c, x in values.items()}


def make_table(
  metrics: Mapping[str, Metric],
  summaries: Mapping[str, Mapping[str, Summary]],
  reference: Mapping[str, Mapping[str, Summary]] | None,
  rows: Sequence[Row],
  not_run: Mapping[str, str],
) -> str:
  """Returns Markdown: a line for each score, or for each metric without one.

  Args:
    metrics: those that were asked for, in order.
    summaries: metric -> column -> score.
    reference: the same of the reference clips, if there are any.
    not_run: metric -> what to do.
  """
  header = ["score", "better", "value", "reference", "clips", "not measured"]
  lines = []
  for name, metric in metrics.items():
    if name in not_run:
      lines.append([name, "", f"not run: {not_run[name]}", "", "0", ""])
      continue
    found, why = summaries[name], describe_reasons(name, rows)
    columns = [c for c in metric.columns if c in found]
    for column in columns:
      about, theirs = metric.columns[column], (reference or {}).get(name, {})
      label = f"{name} {column}" + (f", {about.unit}" if about.unit else "")
      cells = [_cell(found[column]), _cell(theirs.get(column))]
      lines.append([label, about.better, *cells, str(found[column].clips), why])
    if not columns:
      lines.append([name, "", "no clip was measured", "", "0", why])
  if reference is None:
    for line in [header, *lines]:
      del line[3]
  rule = ["---"] * len(header)
  cells = ([x.replace("|", "/") for x in line] for line in lines)
  return "".join(f"| {' | '.join(x)} |\n" for x in (header, rule, *cells))


def describe_reasons(name: str, rows: Sequence[Row]) -> str:
  """Returns how many clips a metric has no score of, by reason."""
  found = collections.Counter(
    row["not_measured"][name] for row in rows if name in row["not_measured"]
  )
  # Failures differ in their numbers: the first stands for all.
  failed = [text for text in found if text.startswith(FAILED)]
  for text in failed[1:]:
    found[failed[0]] += found.pop(text)
  return "; ".join(f"{count}: {text}" for text, count in found.most_common())


def _half_interval(statistic: Any, values: np.ndarray) -> float | None:
  """Returns half of the 95 % bootstrap interval of a statistic of clips."""
  if len(values) < 2:
    return None
  rng, num = np.random.default_rng(0), len(values)
  drawn = [
    statistic(values[rng.integers(num, size=num)]) for _ in range(_RESAMPLES)
  ]
  low, high = np.quantile(drawn, (0.025, 0.975))
  return float(high - low) / 2


def _cell(summary: Summary | None) -> str:
  if summary is None:
    return ""
  half = summary.interval
  return f"{summary.value:.4g}" + ("" if half is None else f" ±{half:.2g}")

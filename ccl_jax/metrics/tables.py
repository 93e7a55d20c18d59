"""Writes scores as Markdown tables."""

from collections.abc import Iterable, Mapping, Sequence

from ccl_jax.metrics.bootstrap import Score, Scores
from ccl_jax.metrics.synchworld import SCORES


def table(rows: Mapping[str, Scores], decimals: int | None = None) -> str:
  """Returns a Markdown table: a line for each row, a column for each score.

  Args:
    decimals: of all numbers; those of `SCORES` if None.
  """
  names = [name for name in SCORES if any(name in row for row in rows.values())]
  digits = SCORES if decimals is None else dict.fromkeys(SCORES, decimals)
  return markdown(
    ["", *names],
    (
      [title, *(_cell(row.get(name), digits[name]) for name in names)]
      for title, row in rows.items()
    ),
  )


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  """Returns a Markdown table whose first column is text, the others numbers."""
  lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
  return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def report(
  title: str,
  shares: Mapping[str, Scores],
  heading: str,
  scores: Mapping[str, Scores],
) -> str:
  """Returns a table of shares and another, with its heading, in Markdown."""
  return (
    f"### {title}\n\nShare of the way from the blind floor (0) to the codecs'"
    " ceiling (1), and half of\nits 95 % interval:\n\n"
    f"{table(shares, decimals=2)}\n\n{heading}:\n\n{table(scores)}\n"
  )


def _cell(score: Score | None, digits: int) -> str:
  """Returns the value and half of its interval, such as "0.84 ±0.02"."""
  if score is None:
    return "-"
  half = (score.high - score.low) / 2
  return f"{score.value:.{digits}f} ±{half:.{digits}f}"

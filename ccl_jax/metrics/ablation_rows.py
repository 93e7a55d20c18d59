"""Rows of a table of variants: what each trains, and how it is guided."""

from collections.abc import Sequence
from typing import NamedTuple

from etils import epath

from ccl_jax.metrics import sweep


class Row(NamedTuple):
  """A line of the table.

  Attributes:
    fusion: of configs/ccl.py.
    rule: guidance rule, perhaps with scales, see `sweep`.
    changes: "key=value" of the config.
  """

  fusion: str
  rule: str
  changes: tuple[str, ...] = ()

  @property
  def run(self) -> tuple[str, ...]:
    """Returns what training depends on."""
    return (self.fusion, *self.changes)


ROWS = {
  "gate": Row("gated", "text"),
  "tarp": Row("gated", "text", ("model.fusion.tarp=True",)),
  "lct": Row("cca", "text"),
  "ucg": Row("cca", "ucg2"),
  "sync": Row("cca", "sync"),
}


def chosen_rows(names: Sequence[str], more: Sequence[str]) -> dict[str, Row]:
  """Returns the named rows, then others.

  Args:
    names: of ROWS.
    more: each "NAME FUSION RULE KEY=VALUE ...".

  Raises:
    ValueError: an unknown name or rule, or a row that is not complete.
  """
  rows = {}
  for name in names:
    if name not in ROWS:
      raise ValueError(f"Unknown row '{name}', expected {', '.join(ROWS)}.")
    rows[name] = ROWS[name]
  for text in more:
    parts = text.split()
    if len(parts) < 3 or any("=" not in change for change in parts[3:]):
      raise ValueError(
        f"--row='{text}': expected 'NAME FUSION RULE KEY=VALUE'."
      )
    name, fusion, rule, *changes = parts
    if name in rows or epath.Path(name).name != name:
      raise ValueError(f"--row='{text}': the name must be new and plain.")
    sweep.parse_rule(rule)
    rows[name] = Row(fusion, rule, tuple(changes))
  return rows

"""Rows of an ablation table: what each trains, and how it is guided."""

from collections.abc import Sequence
from typing import NamedTuple

from etils import epath

from ccl_jax.metrics import sweep


class Run(NamedTuple):
  """What the training of a row depends on.

  Attributes:
    model: fusion of configs/ccl.py, or a config file with its argument.
    changes: "key=value" of the config.
    after: the row whose trained parameters are this one's first; "" if none.
  """

  model: str
  changes: tuple[str, ...] = ()
  after: str = ""

  def arguments(
    self, config: str, settings: Sequence[str], first: epath.Path | None
  ) -> list[str]:
    """Returns the arguments of `train` that make the run.

    Args:
      config: of which the model is a fusion, if it is not a config itself.
      settings: "key=value" of the config, of all runs.
      first: workdir of the run whose parameters it starts from.
    """
    if ".py" in self.model:
      config = self.model
    else:
      config += f"{',' if ':' in config else ':'}fusion={self.model}"
    changes = [*settings, *self.changes]
    if first:
      sources = ((".*", str(first)),)
      changes += [f"init.from_runs={sources}", "init.fresh=()"]
    return [f"--config={config}", *(f"--config.{x}" for x in changes)]


class Row(NamedTuple):
  """A line of the table: what is trained, and a guidance rule, see `sweep`."""

  run: Run
  rule: str


AFTER = "after="
ROWS = {
  "gate": Row(Run("gated"), "text"),
  "tarp": Row(Run("gated", ("model.fusion.tarp=True",)), "text"),
  "lct": Row(Run("cca"), "text"),
  "ucg": Row(Run("cca"), "ucg2"),
  "sync": Row(Run("cca"), "sync"),
}


def chosen_rows(names: Sequence[str], more: Sequence[str]) -> dict[str, Row]:
  """Returns the named rows, then others.

  Args:
    names: of ROWS.
    more: each "NAME MODEL RULE [after=ROW] KEY=VALUE ...".

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
      raise ValueError(f"--row='{text}': expected 'NAME MODEL RULE KEY=VALUE'.")
    name, model, rule, *changes = parts
    if name in rows or epath.Path(name).name != name:
      raise ValueError(f"--row='{text}': the name must be new and plain.")
    sweep.parse_rule(rule)
    after = [x.removeprefix(AFTER) for x in changes if x.startswith(AFTER)]
    if len(after) > 1 or not rows.keys() >= set(after):
      raise ValueError(
        f"--row='{text}': {AFTER}ROW names one of the rows before it, which are"
        f" {', '.join(rows) or 'none'}."
      )
    changes = tuple(x for x in changes if not x.startswith(AFTER))
    rows[name] = Row(Run(model, changes, *after), rule)
  return rows

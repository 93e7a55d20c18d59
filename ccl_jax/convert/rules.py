"""Tables that map the arrays of a PyTorch file to our parameters and back.

    Rule("blocks.{layer}.ffn.{i}.weight", "video/blocks/ffn/{i}/kernel", LINEAR)

A table is a tuple of rules and is read in both directions. Names are templates:
`{i}` matches digits and is on both sides. `{layer}` may be absent in ours: then
the layers are stacked, and it is the index on the leading axis. A rule may join
several arrays or split one; then names are tuples. `ours=()` ignores arrays of
the file that are no parameters, such as buffers of filters. `matching` checks
that a table covers a file and a model exactly.
"""

import dataclasses
import re
from collections.abc import Sequence

from ccl_jax.convert.layouts import LINEAR, QKV, SAME, WeightLayout, each

FIELD = re.compile(r"\{(\w+)\}")
LAYER = "layer"

Names = str | tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Rule:
  """One line of a table.

  Args:
    theirs: template, or several that together make `ours`.
    ours: template of a path, several that `theirs` makes, or () to ignore it.
    layout: from arrays of theirs to arrays of ours (of one layer).

  Raises:
    ValueError: the sides do not have the same placeholders.
  """

  theirs: Names
  ours: Names
  layout: WeightLayout = SAME

  def __post_init__(self):
    for side in ("theirs", "ours"):
      names = getattr(self, side)
      names = (names,) if isinstance(names, str) else names
      object.__setattr__(self, side, names)
    fields = {frozenset(FIELD.findall(name)) for name in self.theirs}
    for name in self.ours:
      own = frozenset(FIELD.findall(name))
      fields |= {own | {LAYER} if self.is_stacked else own}
    if len(fields) > 1:
      raise ValueError(
        f"{self}: expected the same {{placeholders}} in all names; only"
        f" {{{LAYER}}} may be absent, in all of ours."
      )

  @property
  def is_stacked(self) -> bool:
    """Returns whether each layer of theirs is a row of ours."""
    field = f"{{{LAYER}}}"
    return field in self.theirs[0] and not any(field in x for x in self.ours)

  def __str__(self) -> str:
    return f"rule {' + '.join(self.theirs)} -> {' + '.join(self.ours) or '-'}"


Table = Sequence[Rule]


def weight_and_bias(
  theirs: str,
  ours: str,
  weight: WeightLayout = LINEAR,
  bias: WeightLayout = SAME,
) -> tuple[Rule, Rule]:
  """Returns the rules of a linear layer or a convolution."""
  return (
    Rule(f"{theirs}.weight", f"{ours}/kernel", weight),
    Rule(f"{theirs}.bias", f"{ours}/bias", bias),
  )


def scale_and_bias(theirs: str, ours: str) -> tuple[Rule, Rule]:
  """Returns the rules of a layer norm."""
  return (
    Rule(f"{theirs}.weight", f"{ours}/scale"),
    Rule(f"{theirs}.bias", f"{ours}/bias"),
  )


def fused_qkv(theirs: str, ours: str) -> tuple[Rule, Rule]:
  """Returns the rules of one linear layer of theirs that is q, k and v."""
  kernels, biases = (
    tuple(f"{ours}/{x}/{leaf}" for x in "qkv") for leaf in ("kernel", "bias")
  )
  return (
    Rule(f"{theirs}.weight", kernels, QKV.then(each(LINEAR))),
    Rule(f"{theirs}.bias", biases, QKV),
  )

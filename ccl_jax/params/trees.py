"""Rules on the paths of a nested dict: `[(regex, value)]`, first match wins.

A path is `a/b/c`. A leaf that no rule matches and a rule that matches no leaf
are errors: a misspelt pattern never passes silently. Freezing, learning rates,
sharding and conversion all use such rules.
"""

import re
from collections.abc import Sequence
from typing import Any

from flax import traverse_util

from ccl_jax.array_types import PyTree


def flatten(tree: PyTree, prefix: str = "") -> dict[str, Any]:
  """Flattens a nested dict to {"a/b/c": leaf}, in sorted order of paths.

  Keys may be integers, as those of lists of modules are.
  """
  if not isinstance(tree, dict):
    return {prefix.rstrip("/"): tree}
  leaves = {}
  for key in sorted(tree, key=str):
    leaves |= flatten(tree[key], f"{prefix}{key}/")
  return leaves


def unflatten(leaves: dict[str, Any]) -> PyTree:
  """Inverts `flatten`; all keys are strings."""
  return traverse_util.unflatten_dict(leaves, sep="/")


def match(
  rules: Sequence[tuple[str, Any]], tree: PyTree, idle_ok: bool = False
) -> PyTree:
  """Returns each leaf's value of the first rule that fully matches its path.

  `idle_ok` allows rules without a leaf, for a part of a tree that was matched
  before.

  Raises:
    ValueError: leaves without a rule, or rules without a leaf.
  """
  used, values, unmatched = set(), {}, []
  for path in flatten(tree):
    found = [
      i for i, (regex, _) in enumerate(rules) if re.fullmatch(regex, path)
    ]
    used.update(found)
    if found:
      values[path] = rules[found[0]][1]
    else:
      unmatched.append(path)
  idle = [rules[i][0] for i in range(len(rules)) if i not in used]
  if unmatched or (idle and not idle_ok):
    raise ValueError(
      f"Rules and tree do not fit. Leaves that no rule matches:"
      f" {unmatched[:5]} ({len(unmatched)} in all); rules that match no leaf:"
      f" {idle}. Known paths begin: {list(flatten(tree))[:5]}."
    )
  return unflatten(values)


def split(tree: PyTree, chosen: PyTree) -> tuple[PyTree, PyTree]:
  """Splits a tree: leaves whose value in `chosen` is true, and the rest."""
  values = flatten(chosen)
  parts: tuple[dict, dict] = ({}, {})
  for path, leaf in flatten(tree).items():
    parts[0 if values[path] else 1][path] = leaf
  return unflatten(parts[0]), unflatten(parts[1])


def join(first: PyTree, second: PyTree) -> PyTree:
  """Joins what `split` has split."""
  return unflatten(flatten(first) | flatten(second))


def count(tree: PyTree) -> int:
  """Counts the elements of all leaves (arrays or their shapes)."""
  return sum(leaf.size for leaf in flatten(tree).values())

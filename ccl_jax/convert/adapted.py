"""Names of a model with image blocks in the state dict of its PyTorch class.

They are our own paths, with PyTorch's name for the leaf:

    video/blocks/ffn/up/kernel     video.blocks.{layer}.ffn.up.weight
    fusion/temporal/norm/scale     fusion.{layer}.temporal.norm.weight
"""

from collections.abc import Mapping
from typing import Any

from ccl_jax.convert.layouts import LINEAR, SAME
from ccl_jax.convert.rules import LAYER, Rule, Table
from ccl_jax.models import functional
from ccl_jax.params import trees
from ccl_jax.params.param_names import is_kernel, is_stacked

_NAMES = {"embed": "patches"}  # in PyTorch, "embed" is a method
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}


def table(model: Mapping[str, Any]) -> Table:
  """Returns the rules for a `model` section."""
  _, shapes = functional.describe(model)
  return tuple(map(_rule, trees.flatten(shapes)))


def _rule(path: str) -> Rule:
  *names, leaf = path.split("/")
  if is_stacked(path):
    names.insert(1 if names[0] == "fusion" else 2, f"{{{LAYER}}}")
  names = [_NAMES.get(name, name) for name in names]
  theirs = ".".join([*names, _LEAVES[leaf]])
  return Rule(theirs, path, LINEAR if is_kernel(path) else SAME)

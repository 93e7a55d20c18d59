"""Path rules: first match wins, nothing unmatched passes."""

import numpy as np
import pytest

from ccl_jax.params import trees

TREE = {"a": {"b": {"kernel": 1, "bias": 2}, "c": 3}, "d": 4}


def test_flatten_and_unflatten_are_inverses():
  flat = trees.flatten(TREE)
  assert flat == {"a/b/bias": 2, "a/b/kernel": 1, "a/c": 3, "d": 4}
  assert trees.unflatten(flat) == TREE


def test_first_matching_rule_wins():
  values = trees.match([("a/b/.*", "x"), ("a/.*", "y"), (".*", "z")], TREE)
  assert trees.flatten(values) == {
    "a/b/bias": "x", "a/b/kernel": "x", "a/c": "y", "d": "z",
  }  # fmt: skip


@pytest.mark.parametrize(
  ("rules", "named"),
  [
    ([("a/.*", 1)], "'d'"),
    ([(".*", 1), ("misspelt/.*", 2)], "misspelt"),
    ([("a", 1), ("d", 1)], "a/b/bias"),  # full match, not a prefix
  ],
)
def test_what_does_not_fit_is_named(rules, named):
  with pytest.raises(ValueError, match=named):
    trees.match(rules, TREE)


def test_split_and_join_are_inverses():
  chosen = trees.match([("a/b/.*", 1.0), (".*", 0.0)], TREE)
  first, second = trees.split(TREE, chosen)
  assert first == {"a": {"b": {"kernel": 1, "bias": 2}}}
  assert trees.join(first, second) == TREE
  everything, nothing = trees.split(TREE, trees.match([(".*", 1.0)], TREE))
  assert nothing == {}
  assert trees.join(everything, nothing) == TREE


def test_count_adds_elements():
  assert trees.count({"x": np.zeros((2, 3)), "y": {"z": np.zeros(4)}}) == 10

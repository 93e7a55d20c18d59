"""Rules: the placeholders of their templates."""

import pytest

from ccl_jax.convert.rules import Rule


@pytest.mark.parametrize(
  "theirs, ours",
  [("a.{i}", "a"), ("a", "a/{i}"), (("a.{layer}", "b"), "a")],
)
def test_placeholders_are_on_both_sides(theirs, ours):
  with pytest.raises(ValueError, match="placeholders"):
    Rule(theirs, ours)

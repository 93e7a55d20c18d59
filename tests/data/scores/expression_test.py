"""Conditions on scores, which are never run as code."""

import pytest

from ccl_jax.data.scores import expression

NAMES = ("static", "lufs", "cuts", "duplicate", "sync_offset")
SCORES = {
  "static": 0.5,
  "lufs": -30.0,
  "cuts": 2,
  "duplicate": 0,
  "sync_offset": -2,
}


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ("static<0.9 and lufs>-40", True),
    ("static<0.9 and lufs>-20", False),
    ("static > 0.9 or cuts == 2", True),
    ("not duplicate", True),
    ("duplicate", False),
    ("abs(sync_offset) <= 2 and abs(sync_offset) > 1.5", True),
    ("0 < static < 0.4", False),
    ("0 < static <= 0.5 != cuts", True),
    ("min(static, cuts) == 0.5 and max(static, cuts, 3) == 3", True),
    ("(static + 1) * 2 - cuts / 4 == 2.5", True),
    ("+static == -(-static)", True),
    ("static / duplicate > 0", False),
    ("static / duplicate <= 0", False),
    ("True", True),
    (" static < 1\n", True),
  ],
)
def test_a_condition_is_true_or_false(text, expected):
  assert expression.parse(text, NAMES)(SCORES) is expected


def test_what_a_clip_lacks_meets_no_comparison():
  for text in ("lufs > -40", "lufs <= -40", "abs(lufs) > 0", "lufs != 3",
               "lufs + 1 > 0", "max(lufs, 3) == 3"):  # fmt: skip
    assert expression.parse(text, NAMES)({"static": 1.0, "lufs": None}) is False
    assert expression.parse(text, NAMES)({}) is False
  assert expression.parse("static < 1 or cuts > 0", NAMES)({"static": 0.5})


@pytest.mark.parametrize(
  ("text", "reason"),
  [
    ("", "invalid syntax"),
    ("static <", "invalid syntax"),
    ("statik < 1", "no score 'statik'. Did you mean 'static'"),
    ("__import__('os')", "is not allowed"),
    ("static.__class__", "is not allowed"),
    ("static[0]", "is not allowed"),
    ("(lambda: 1)()", "is not allowed"),
    ("[x for x in (1,)]", "is not allowed"),
    ("2 ** 99999999", "is not allowed"),
    ("'a' < static", "is not allowed"),
    ("static = 1", "invalid syntax"),
    ("(static := 1)", "is not allowed"),
    ("eval('1')", "is not allowed"),
    ("abs(static, 1)", "abs takes one number"),
    ("min(static)", "is not allowed"),
    ("min(static, *[1])", "is not allowed"),
    ("abs(x=1)", "is not allowed"),
    ("static is 1", "is not allowed"),
    ("static in (1, 2)", "is not allowed"),
    ("static and\nimport os", "invalid syntax"),
    ("1j", "is not allowed"),
    ("(" * 300 + "1" + ")" * 300, ""),
    ("-" * 900 + "1", ""),
    ("1" * 2000, "longer than 1000 characters"),
    ("\0", ""),
  ],
)
def test_anything_else_is_one_error(text, reason):
  try:
    value = expression.parse(text, NAMES)(SCORES)
  except ValueError as error:
    assert reason in str(error) and "cannot be read" in str(error)
  else:  # deep, and fine
    assert not reason and value is True

"""Rows by name, and of one's own."""

import pytest

from ccl_jax.metrics.ablation_rows import ROWS, Row, chosen_rows


def test_rows_of_ones_own_come_last():
  rows = chosen_rows(["gate"], ["few cca ucg2 model.fusion.num_audio_lct=2"])
  few = Row("cca", "ucg2", ("model.fusion.num_audio_lct=2",))
  assert rows == {"gate": ROWS["gate"], "few": few}


def test_a_row_may_start_from_another():
  text = "full configs/icac.py:size=tiny text after=lct seed=1"
  rows = chosen_rows(["lct"], [text])
  full = Row("configs/icac.py:size=tiny", "text", ("seed=1",), "lct")
  assert rows["full"] == full
  assert full.run != full._replace(after="").run


@pytest.mark.parametrize(
  ("names", "more", "message"),
  [
    (["gates"], [], "Unknown row 'gates', expected gate, tarp"),
    ([], ["few cca"], "expected 'NAME MODEL RULE KEY=VALUE'"),
    ([], ["few cca ucg2 steps"], "expected 'NAME MODEL RULE KEY=VALUE'"),
    (["lct"], ["lct cca ucg2"], "the name must be new and plain"),
    ([], ["../a cca ucg2"], "the name must be new and plain"),
    (
      [],
      ["few cca ucg2 after=lct"],
      "one of the rows before it, which are none",
    ),
    (
      ["lct"],
      ["few cca ucg2 after=ucg"],
      "one of the rows before it.* are lct",
    ),
    ([], ["few cca ucg9"], "Unknown guidance 'ucg9'"),
  ],
)
def test_rows_that_cannot_be_are_one_error(names, more, message):
  with pytest.raises(ValueError, match=message.replace("(", "\\(")):
    chosen_rows(names, more)

"""Rows by name, and of one's own."""

import pytest
from etils import epath

from ccl_jax.metrics.ablation_rows import ROWS, Row, Run, chosen_rows


def test_rows_of_ones_own_come_last():
  rows = chosen_rows(["gate"], ["few cca ucg2 model.fusion.num_audio_lct=2"])
  few = Row(Run("cca", ("model.fusion.num_audio_lct=2",)), "ucg2")
  assert rows == {"gate": ROWS["gate"], "few": few}


def test_a_row_may_start_from_another():
  text = "full configs/icac.py:size=tiny text after=lct seed=1"
  rows = chosen_rows(["lct"], [text])
  run = Run("configs/icac.py:size=tiny", ("seed=1",), "lct")
  assert rows["full"] == Row(run, "text")
  assert run != run._replace(after="")


def test_a_run_after_another_starts_from_its_parameters():
  run = Run("configs/icac.py:size=tiny", ("batch_size=4",), "masked")
  assert run.arguments("configs/ccl.py", ["seed=1"], epath.Path("M/run")) == [
    "--config=configs/icac.py:size=tiny", "--config.seed=1",
    "--config.batch_size=4", "--config.init.from_runs=(('.*', 'M/run'),)",
    "--config.init.fresh=()",
  ]  # fmt: skip


@pytest.mark.parametrize(
  ("config", "whole"),
  [
    ("configs/ccl.py", "configs/ccl.py:fusion=cca"),
    ("configs/ccl.py:size=tiny", "configs/ccl.py:size=tiny,fusion=cca"),
  ],
)
def test_the_model_is_a_fusion_of_the_config(config, whole):
  assert Run("cca", (), "").arguments(config, [], None) == [f"--config={whole}"]


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

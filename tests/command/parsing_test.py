"""Flags: their spelling, and their names in earlier versions.

More errors are in tests/train_test.py.
"""

import pytest
from absl import flags

from ccl_jax.command import parsing


@pytest.fixture
def known(monkeypatch):
  """The flags of a command."""
  known = flags.FlagValues()
  for name in ("output", "shard-size", "config", "note", "steps"):
    flags.DEFINE_string(name, "", "", flag_values=known)
  for name in ("attention_maps", "batch_passes"):
    flags.DEFINE_bool(name, None, "", flag_values=known)
  flags.DEFINE_float("guidance_rescale", 0.0, "", flag_values=known)
  flags.DEFINE_integer("num_inference_steps", 50, "", flag_values=known)
  monkeypatch.setattr(flags, "FLAGS", known)
  return known


@pytest.mark.parametrize(
  ("argument", "name", "value"),
  [
    ("--attention-maps", "attention_maps", True),
    ("--noattention-maps", "attention_maps", False),
    ("--attention_maps=false", "attention_maps", False),
    ("--shard-size=1GB", "shard-size", "1GB"),
    ("--note=a-b", "note", "a-b"),
    ("--output=--out=x", "output", "--out=x"),
    ("--steps=1,2", "steps", "1,2"),  # an old name, but a flag of its own here
  ],
)
def test_flags_may_be_spelled_with_dashes(known, argument, name, value):
  assert parsing.parse_flags(["program", argument]) == ["program"]
  assert known[name].value == value


def test_arguments_that_are_no_flags_are_returned(known):
  parsed = parsing.parse_flags(["program", "to-torch", "--note=x"])
  assert parsed == ["program", "to-torch"]


@pytest.mark.parametrize(
  ("argument", "message"),
  [
    ("--out=DIR", "--out is called --output now."),
    ("--rescale=0.7", "--rescale is called --guidance_rescale now."),
    ("--nobatched", "--nobatched is called --nobatch_passes now."),
    ("--config.steps=4", "--config.steps is called --config.num_train_steps"),
    ("--config.xla", "--config.xla is called --config.xla_options now."),
    (
      "--config.initial.sources=()",
      "--config.initial.sources is called --config.init.from_runs now. It is"
      " written --config.init.from_runs=",
    ),
    (
      "--config.initial.more=()",
      "--config.initial.more is called --config.init.more now.",
    ),
    (
      "--config.model.fusion.audio-half=2",
      "--config.model.fusion.audio-half is called"
      " --config.model.fusion.audio_window_radius now.",
    ),
    (
      "--noconfig.sampling.reference-once",
      "--noconfig.sampling.reference-once is called"
      " --noconfig.sampling.cache_reference now.",
    ),
  ],
)
def test_an_old_name_is_an_error_with_the_new_one(known, argument, message):
  with pytest.raises(SystemExit) as error:
    parsing.parse_flags(["program", "--note=x", argument])
  assert str(error.value).startswith(f"error: {message}")


@pytest.mark.parametrize("argument", ["--train=3", "--outptu=x"])
def test_other_unknown_flags_are_errors_of_absl(known, argument):
  """Also an old name whose new one this command does not have."""
  with pytest.raises(SystemExit, match="error: Unknown command line flag"):
    parsing.parse_flags(["program", argument])

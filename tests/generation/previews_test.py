"""Which clips previews are made of."""

import dataclasses

import pytest

from ccl_jax.generation.eval_config import EvalConfig
from tests.data import clips

STREAMS = ("video", "audio")


def write(path, *splits):
  codecs = clips.codecs()
  examples = [clips.example(codecs, i, s) for i, s in enumerate(splits)]
  clips.write_records(path, codecs, examples)
  return str(path)


def test_without_held_out_clips_those_of_training_are_shown(tmp_path, capsys):
  config = EvalConfig(num_clips=1)
  data = write(tmp_path / "a", "mine", "mine")
  used = config.for_data(STREAMS, (), data, "mine")
  assert used == dataclasses.replace(config, split="mine")
  said = capsys.readouterr().out
  assert "no split 'validation': previews are of clips of 'mine'" in said
  data = write(tmp_path / "b", "mine", "validation")
  assert config.for_data(STREAMS, (), data, "mine") == config
  assert not capsys.readouterr().out


def test_what_was_asked_for_must_exist(tmp_path):
  data = write(tmp_path / "data", "train")
  with pytest.raises(ValueError, match="No split 'tset'"):
    EvalConfig(split="tset").for_data(STREAMS, (), data, "train")
  with pytest.raises(ValueError, match="task a2v: this model has no video"):
    EvalConfig(tasks=("a2v",)).for_data(("audio",), (), data, "train")
  with pytest.raises(ValueError, match="takes audio as a condition only"):
    EvalConfig().for_data(STREAMS, ("audio",), data, "train")
  with pytest.raises(ValueError, match="No split 'validation'"):
    EvalConfig(world="folder").for_data(STREAMS, (), data, "train")
  with pytest.raises(ValueError, match="num_scored=1: expected 2"):
    EvalConfig(num_scored=1)
  for names in ((), ("t2a", "t2v")):
    with pytest.raises(ValueError, match="expected one of t2av, i2av, a2v"):
      EvalConfig(world="folder", tasks=names)
  nothing = EvalConfig(tasks=(), split="tset")
  assert nothing.for_data(STREAMS, (), data, "train") == nothing

"""Which metrics a checkpoint may be chosen by."""

import pytest

from ccl_jax.training.log_config import LogConfig, check_keep_best


def config(keep_best, **intervals):
  """Sections of a run that saves every 6 steps and logs every 3."""
  return {
    "checkpoint": {"keep_best": keep_best, "save_interval_steps": 6},
    "log": {"every_steps": intervals.get("log", 3)},
    "eval": {
      "loss_every_steps": intervals.get("eval", 2),
      "tasks": ("t2a", "a2v"),
      "every_steps": intervals.get("sample", 6),
      "world": intervals.get("world", "folder"),
    },
  }


@pytest.mark.parametrize(
  "name",
  [
    "", "loss", "loss/joint/video", "held_out/loss", "held_out/loss/a2v/video",
    "held_out/share/a2v/EAC", "held_out/share/a2v/onset_F1",
  ],
)  # fmt: skip
def test_metrics_that_are_known_at_each_checkpoint_are_taken(name):
  check_keep_best(config(name), ("video", "audio"))


@pytest.mark.parametrize(
  ("name", "intervals", "words"),
  [
    ("los", {}, "Did you mean 'loss'"),
    ("held_out/mfu", {}, "Expected one of loss, loss/"),
    ("loss/a2v/audio", {}, "Expected one of"),  # a2v generates no sound
    ("loss", {"log": 4}, "log.every_steps=4 steps, and .* saved every 6"),
    ("held_out/loss", {"eval": 0}, "eval.loss_every_steps=0"),
    ("held_out/loss", {"eval": 4, "log": 3}, "divides 6"),
    ("held_out/share/a2v/EAC", {"sample": 4}, "eval.every_steps=4 steps"),
    ("held_out/share/a2v/EAC", {"world": ""}, "set eval.world to the folder"),
    ("held_out/share/a2v/F1", {}, "Did you mean 'held_out/share/a2v/"),
    # No clips of a task that is not sampled, nor both streams of a sound.
    ("held_out/share/v2a/EAC", {}, "or held_out/share/a2v/EAC, or"),
    ("held_out/share/t2a/EAC", {}, "or held_out/share/a2v/EAC, or"),
  ],
)
def test_others_are_one_clear_error(name, intervals, words):
  with pytest.raises(ValueError, match=words):
    check_keep_best(config(name, **intervals), ("video", "audio"))


def test_a_stream_that_the_model_lacks_has_no_loss():
  with pytest.raises(ValueError, match="loss/apart/audio"):
    check_keep_best(config("loss/joint/video"), ("audio",))


def test_no_steps_between_lines_is_an_error():
  with pytest.raises(ValueError, match="every_steps=0"):
    LogConfig(every_steps=0)

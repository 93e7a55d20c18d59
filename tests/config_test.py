"""Config sections against constructors, and the config file itself."""

import dataclasses

import pytest

from ccl_jax.config import build
from configs.ccl import get_config


@dataclasses.dataclass
class Part:
  width: int
  depth: int = 2


def test_a_section_builds_its_part():
  assert build(Part, {"depth": 3}, "part", width=1) == Part(1, 3)


@pytest.mark.parametrize(
  ("section", "words"),
  [
    ({"width": 1, "dept": 2}, "'part.dept'. Did you mean 'depth'"),
    ({"depth": 1}, "'part' lacks width"),
  ],
)
def test_unknown_and_missing_keys_are_named(section, words):
  with pytest.raises(ValueError, match=words):
    build(Part, section, "part")


def test_a_misspelt_override_is_an_error_with_a_suggestion():
  with pytest.raises(AttributeError, match="Did you mean"):
    get_config("size=tiny").step = 3


@pytest.mark.parametrize("arg", ["sise=tiny", "size=huge", "stage=both"])
def test_unknown_arguments_are_errors(arg):
  with pytest.raises(ValueError, match="expected"):
    get_config(arg)


def test_the_paper_numbers():
  c = get_config()
  assert (c.num_train_steps, c.batch_size) == (12_000, 320)
  assert tuple(c.objective.probabilities) == (0.10, 0.15, 0.15, 0.60)
  assert c.model.fusion.num_audio_lct == 8
  assert c.model.fusion.num_video_lct == 128
  assert tuple(c.optimizer.learning_rates) == (
    ("fusion/.*", 1e-4),
    (".*", 1e-5),
  )
  audio = get_config("stage=audio")
  assert (audio.num_train_steps, audio.batch_size, audio.model.video) == (
    160_000,
    3200,
    None,
  )

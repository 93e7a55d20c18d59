"""Rules with their scales, and the best of several."""

import pytest

from ccl_jax.generation.sampling_config import SamplingConfig
from ccl_jax.metrics.sweep import best_scales, parse_rule


@pytest.mark.parametrize(
  ("text", "scales"),
  [
    ("ucg2", (4.0, 3.0, 2.5, 2.5)),  # those of the config
    ("ucg2:2", (2.0, 2.0, 2.5, 2.5)),
    ("ucg3:2:1.5", (2.0, 2.0, 1.5, 1.5)),
    ("none", (4.0, 3.0, 2.5, 2.5)),
  ],
)
def test_scales_are_of_both_streams(text, scales):
  sampling = SamplingConfig(**parse_rule(text))
  assert sampling.guidance == text.partition(":")[0]
  video, audio = (sampling.scales[s] for s in ("video", "audio"))
  assert scales == (
    video["scale"], audio["scale"], video["cross"], audio["cross"],
  )  # fmt: skip


@pytest.mark.parametrize(
  "text", ["ucg2:x", "ucg2:-1", "ucg2:1:2", "none:2", "ucg3:1:2:3", "ucg2:nan"]
)
def test_scales_that_cannot_be_are_an_error(text):
  with pytest.raises(ValueError, match=f"Guidance '{text}': expected"):
    parse_rule(text)
  with pytest.raises(ValueError, match="Unknown guidance 'cfg'"):
    parse_rule("cfg:2")


def test_the_best_is_of_each_task_and_rule():
  values = {
    ("a2v", "text:2"): 0.5, ("a2v", "text:4"): 0.4, ("a2v", "ucg2:2"): 0.1,
    ("v2a", "text:2"): 0.2, ("v2a", "text:4"): 0.3, ("v2a", "ucg2:2"): 0.1,
  }  # fmt: skip
  clips = {k: [{"EAC": (x, 1), "SER": (x, 1)}] * 3 for k, x in values.items()}
  rest = [("a2v", "ucg2:2"), ("v2a", "ucg2:2")]
  best = [("a2v", "text:2"), ("v2a", "text:4"), *rest]
  worst = [("a2v", "text:4"), ("v2a", "text:2"), *rest]
  assert sorted(best_scales(clips, "EAC")) == sorted(best)
  assert sorted(best_scales(clips, "SER")) == sorted(worst)  # less is better
  with pytest.raises(ValueError, match="have EAC, SER only"):
    best_scales(clips, "onset F1")

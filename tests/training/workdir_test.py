"""Whether a model fits the clips that it is trained on."""

import pytest

from ccl_jax.data.clip import ClipShape
from ccl_jax.training.workdir import check_model_fits
from tests import runs

OLD_24, NEW_24 = 49 * 5, 255  # audio latents of 193 frames


def check(rate, num_latents, per_frame, **fusion):
  model = runs.MODEL | {
    "audio": runs.MODEL["audio"] | {"tokens_per_frame": per_frame},
    "fusion": runs.MODEL["fusion"] | fusion,
  }
  shape = ClipShape(rate, 193, runs.SHAPE.size)
  check_model_fits(model, runs.codecs(), shape, num_latents)


@pytest.mark.parametrize(
  ("fps", "num_latents", "per_frame"),
  [
    (25.0, 49 * 5, 5),
    (25.0, 49 * 5, 5.0),
    (24.0, NEW_24, 125 / 24),
    (24.0, NEW_24, 5.20833),
    (24.0, OLD_24, 5),  # of an early version, with its data
    (16.0, 383, 7.8125),
  ],
)
def test_latents_in_a_frame_that_fit(fps, num_latents, per_frame):
  check(fps, num_latents, per_frame)


@pytest.mark.parametrize(
  ("fps", "num_latents", "per_frame", "words"),
  [
    (24.0, NEW_24, 5, "tokens_per_frame is 5, the data have 5.2083333"),
    (24.0, OLD_24, 125 / 24, "tokens_per_frame is 5.2.*, the data have 5;?"),
    (24.0, NEW_24, 5.2, "is 5.2, the data have 5.2083333"),
    (16.0, 383, 8, "is 8, the data have 7.8125"),
  ],
)
def test_other_numbers_of_latents_are_named(fps, num_latents, per_frame, words):
  with pytest.raises(ValueError, match=words):
    check(fps, num_latents, per_frame)


def test_positions_in_seconds_need_the_rate():
  """Where c is whole; else it is c that they are counted by."""
  with pytest.raises(
    ValueError, match=r"fusion\.fps is 25.0, the data have 12"
  ):
    check(12.5, 490, 10, positions="seconds")
  check(12.5, 490, 10, positions="seconds", fps=12.5)
  check(12.5, 490, 10)
  check(24.0, NEW_24, 125 / 24, positions="fine")

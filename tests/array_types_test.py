"""Facts that every part shares."""

from fractions import Fraction

import numpy as np
import pytest

from ccl_jax.array_types import audio_per_frame, audio_starts, other

RATES = [
  *map(Fraction, range(8, 61)),
  *(Fraction(n, 1001) for n in (24000, 30000, 60000)),
]


@pytest.mark.parametrize(
  ("fps", "c"), [(16.0, 7.8125), (24.0, 125 / 24), (25.0, 5)]
)
def test_audio_latents_per_video_frame(fps, c):
  assert audio_per_frame(fps) == c


@pytest.mark.parametrize("fps", RATES, ids=float)
def test_a_latent_belongs_to_the_frame_at_its_middle(fps):
  """For 20 s; a latent takes 4/125 s, a frame 4 / fps."""
  f = int(20 * fps / 4)
  starts = audio_starts(f, audio_per_frame(float(fps)))
  frames = np.repeat(np.arange(f), np.diff(starts))
  middles = ((j + Fraction(1, 2)) * Fraction(4, 125) for j in range(starts[-1]))
  assert frames.tolist() == [int(middle * fps / 4) for middle in middles]
  assert abs(starts[-1] - f * 125 / fps) <= 0.5


def test_a_whole_number_of_latents_is_that_of_every_frame():
  for c in (1, 2, 5, 5.0):
    assert audio_starts(7, c).tolist() == [c * i for i in range(8)]


def test_the_other_stream():
  assert (other("video"), other("audio")) == ("audio", "video")

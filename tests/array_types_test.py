"""Facts that every part shares."""

import pytest

from ccl_jax.array_types import audio_per_frame, other


@pytest.mark.parametrize(("fps", "c"), [(16.0, 8), (24.0, 5), (25.0, 5)])
def test_audio_latents_per_video_frame(fps, c):
  assert audio_per_frame(fps) == c


def test_the_other_stream():
  assert (other("video"), other("audio")) == ("audio", "video")

"""Audio latents on frames: by their middles, padded, and back."""

import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.models.audio_grid import AudioGrid

RATES = (1, 2, 2.1, 2.6, 5.0, 125 / 24, 125 / 60, 125 / 8)


def test_the_grid_of_the_docstring():
  grid = AudioGrid(4, 2.6)
  assert (grid.num_latents, grid.slots, grid.is_full) == (10, 3, False)
  expected = [[0, 1, 2], [3, 4, 4], [5, 6, 7], [8, 9, 9]]
  np.testing.assert_array_equal(grid.latents.reshape(4, 3), expected)
  assert np.flatnonzero(grid.is_padding).tolist() == [5, 11]


@pytest.mark.parametrize("c", RATES)
@pytest.mark.parametrize("frames", [1, 7, 49])
def test_latents_come_back(c, frames):
  grid = AudioGrid(frames, c)
  x = np.random.default_rng(0).normal(size=(2, grid.num_latents, 3))
  x = jnp.asarray(x, "float32")
  padded = grid.pad(x)
  assert padded.shape == (2, frames, grid.slots, 3)
  np.testing.assert_array_equal(grid.unpad(padded), x)
  np.testing.assert_array_equal(
    grid.latents[grid.tokens], np.arange(x.shape[1])
  )
  assert AudioGrid.of(grid.num_latents, c) == grid
  assert grid.is_full or c % 1


def test_more_frames_do_not_move_latents():
  """A context axis pads frames at the end."""
  short, long = AudioGrid(49, 125 / 24), AudioGrid(56, 125 / 24)
  num = len(short.latents)
  np.testing.assert_array_equal(long.latents[:num], short.latents)
  np.testing.assert_array_equal(long.is_padding[:num], short.is_padding)


def test_a_part_of_a_frame_is_refused():
  with pytest.raises(ValueError, match=r"9 audio latents: .*2\.6 .*, to 8"):
    AudioGrid.of(9, 2.6)

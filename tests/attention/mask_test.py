"""Masks show the 0/1 matrices that their docstrings draw."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.attention import FrameBlocks, Full, Mask, Window

WINDOW = Window(1, 2, radius=1, num_context=1)
MATRIX = [
  [1, 1, 1, 1, 1, 0, 0, 0, 0],
  [1, 1, 1, 1, 1, 1, 1, 0, 0],
  [1, 0, 0, 1, 1, 1, 1, 1, 1],
  [1, 0, 0, 0, 0, 1, 1, 1, 1],
]


def test_window_is_the_matrix_of_its_docstring():
  np.testing.assert_array_equal(Mask(WINDOW).dense(4, 9)[0], MATRIX)


BLOCKS = [
  [1, 1, 1, 1, 1, 0, 1, 1, 0],
  [1, 1, 1, 1, 1, 0, 1, 1, 0],
  [1, 1, 1, 0, 0, 0, 0, 0, 0],
  [1, 1, 0, 1, 1, 1, 1, 1, 0],
  [1, 1, 0, 1, 1, 1, 1, 1, 0],
  [0, 0, 0, 1, 1, 1, 0, 0, 0],
  [1, 1, 0, 1, 1, 0, 1, 1, 1],
  [1, 1, 0, 1, 1, 0, 1, 1, 1],
  [0, 0, 0, 0, 0, 0, 1, 1, 1],
]


def test_blocks_of_frames_are_the_matrix_of_its_docstring():
  np.testing.assert_array_equal(Mask(FrameBlocks(2, 1)).dense(9, 9)[0], BLOCKS)
  drawn = re.findall(r"^ +[va]\d +([01 |]+)$", FrameBlocks.__doc__, re.M)
  rows = [[int(x) for x in re.findall("[01]", row)] for row in drawn]
  assert rows == BLOCKS


def test_frames_of_padding_see_themselves_and_are_seen_by_no_other():
  seen = Mask(FrameBlocks(2, 1, num_frames=2)).dense(9, 9)[0]
  np.testing.assert_array_equal(seen[:6, :6], np.array(BLOCKS)[:6, :6])
  assert not seen[:6, 6:].any() and seen[6:, 6:].all()


def test_the_mirrored_window_sees_its_own_frame_only():
  seen = Mask(Window(2, 1, radius=0, num_context=1)).dense(6, 4)[0]
  own_frame = np.repeat(np.eye(3), 2, axis=0)
  np.testing.assert_array_equal(seen, np.c_[np.ones(6), own_frame])


@pytest.mark.parametrize("pattern", [Full(), WINDOW, FrameBlocks(2, 1, 2)])
def test_patterns_answer_numpy_and_jax_alike(pattern):
  q, k = np.arange(4)[:, None], np.arange(9)[None]
  host = pattern.visible(q, k)
  assert isinstance(host, np.ndarray) and host.shape == (4, 9)
  np.testing.assert_array_equal(
    pattern.visible(jnp.asarray(q), jnp.asarray(k)), host
  )


def test_padding_at_the_end_is_seen_by_nobody():
  seen = Mask(Full(num_keys=2)).dense(2, 4)[0]
  np.testing.assert_array_equal(seen, [[1, 1, 0, 0], [1, 1, 0, 0]])


def test_routing_leaves_the_context():
  sees = jnp.array([True, False])
  seen = Mask.routed(WINDOW, sees, 4, 9).dense(4, 9)
  np.testing.assert_array_equal(seen[0], MATRIX)
  np.testing.assert_array_equal(seen[1], np.eye(9)[[0, 0, 0, 0]])


def test_routing_without_context_is_refused():
  with pytest.raises(ValueError, match="num_context"):
    Mask.routed(Window(1, 2, radius=1), jnp.array([True]), 4, 8)


def test_lengths_and_segments_restrict_the_pattern():
  mask = Mask(
    Full(),
    k_lengths=jnp.array([2, 3]),
    q_segments=jnp.array([[0, 1], [0, 0]]),
    k_segments=jnp.array([[0, 1, 1], [0, 1, 0]]),
  )
  seen = [[[1, 0, 0], [0, 1, 0]], [[1, 0, 1], [1, 0, 1]]]
  np.testing.assert_array_equal(mask.dense(2, 3), seen)


def test_masks_pass_through_jit_and_vmap_with_a_static_pattern():
  @jax.jit
  def dense(mask):
    return mask.dense(2, 3)

  mask = Mask(Full(), k_lengths=jnp.array([2, 3]))
  np.testing.assert_array_equal(dense(mask), mask.dense(2, 3))
  lengths = jax.vmap(lambda mask: mask.k_lengths + 1)(mask)
  np.testing.assert_array_equal(lengths, [3, 4])


@pytest.mark.parametrize(
  "make",
  [
    lambda: Window(0, 2, radius=1),
    lambda: Window(1, 2, radius=-1),
  ],
)
def test_impossible_patterns_are_refused(make):
  with pytest.raises(ValueError, match="got"):
    make()


@pytest.mark.parametrize(
  "mask",
  [
    Mask(k_lengths=jnp.zeros(3, jnp.int32)),
    Mask(k_segments=jnp.zeros((2, 5), jnp.int32)),
  ],
)
def test_masks_of_another_size_are_refused(mask):
  with pytest.raises(ValueError):
    mask.check(2, 4, 5)

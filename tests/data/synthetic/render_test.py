"""Video of the synthetic scenes."""

import numpy as np
import pytest

from ccl_jax.data.synthetic import render
from ccl_jax.data.synthetic.scene import draw_scene


@pytest.fixture(scope="module")
def scene():
  scenes = (draw_scene(seed, hard=True) for seed in range(20))
  return next(scene for scene in scenes if scene.ball)


def foreground(scene, frames=49, fps=25.0, size=64):
  """The pixels of face and ball, (t, y, x) bool."""
  time, places = np.arange(frames) / fps, (np.arange(size) + 0.5) * 64 / size
  discs = [(*render.head_path(scene, time), render.FACE_RADIUS)]
  if scene.ball:
    y = render.ball_path(scene, time)
    discs.append((np.full(frames, render.BALL_X), y, render.BALL_RADIUS))
  mask = np.zeros((frames, size, size), bool)
  for x, y, radius in discs:
    dx, dy = places - x[:, None, None], places[:, None] - y[:, None, None]
    mask |= np.hypot(dx, dy) < radius
  return mask


@pytest.mark.parametrize("size", [32, 64, 96])
def test_the_picture_scales(scene, size):
  video = render.render_video(scene, frames=9, size=size)
  assert video.shape == (9, size, size, 3) and video.dtype == np.uint8
  coarse = video.reshape(9, 16, size // 16, 16, size // 16, 3).mean((2, 4))
  wanted = render.render_video(scene, frames=9, size=160)
  wanted = wanted.reshape(9, 16, 10, 16, 10, 3).mean((2, 4))
  assert np.abs(coarse - wanted).mean() < 2


def test_frame_i_shows_time_i_over_fps(scene):
  fast = render.render_video(scene, frames=17, fps=50.0)
  slow = render.render_video(scene, frames=9, fps=25.0)
  np.testing.assert_array_equal(fast[::2], slow)


def test_the_face_has_its_colour_and_the_mouth_is_dark_when_open(scene):
  video = render.render_video(scene)
  syllable = scene.syllables[0]
  frame = round(25 * (syllable.start + syllable.stop) / 2)
  x, y = (track[frame] for track in render.head_path(scene, np.arange(49) / 25))
  cheek = video[frame, int(y), int(x - 11)] / 255
  np.testing.assert_allclose(cheek, scene.voice.rgb, atol=0.01)
  assert video[frame, int(y + render.MOUTH_BELOW), int(x)].max() < 25


def test_the_ball_is_lowest_at_impacts(scene):
  np.testing.assert_allclose(
    render.ball_path(scene, scene.impacts), render.BALL_FLOOR
  )
  half_way = scene.impacts + scene.ball.period / 2
  np.testing.assert_allclose(
    render.ball_path(scene, half_way),
    render.BALL_FLOOR - render.BALL_HEIGHT,
  )


def test_the_foreground_is_face_and_ball(scene):
  mask = foreground(scene)
  assert mask.shape == (49, 64, 64)
  disc = np.pi * (render.FACE_RADIUS**2 + render.BALL_RADIUS**2)
  np.testing.assert_allclose(mask.sum((1, 2)), disc, rtol=0.03)


def test_only_distractors_change_outside_the_foreground(scene):
  change = np.ptp(render.render_video(scene).astype(int), axis=0).max(-1)
  reached = foreground(scene).any(0)
  for axis in (0, 1):  # the soft edge is a pixel wide
    reached |= np.roll(reached, 1, axis) | np.roll(reached, -1, axis)
  changed = np.argwhere((change > 0) & ~reached)
  assert len(changed) and changed[:, 0].max() < 21  # the square and the TV

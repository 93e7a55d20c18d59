"""Video of the synthetic scenes."""

import numpy as np
import pytest

from ccl_jax.data.synthetic import render
from ccl_jax.data.synthetic.scene import draw_scene, make_ball


@pytest.fixture(scope="module")
def scene():
  scenes = (draw_scene(seed, hard=True) for seed in range(20))
  return next(scene for scene in scenes if scene.ball)


def foreground(scene, frames=49, fps=25.0, size=64):
  """The pixels of face and ball, (t, y, x) bool."""
  time, places = np.arange(frames) / fps, (np.arange(size) + 0.5) * 64 / size
  discs = [(*render.head_path(scene, time), render.FACE_RADIUS)]
  if scene.ball:
    discs.append((*render.ball_path(scene.ball, time), render.BALL_RADIUS))
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


@pytest.mark.parametrize("surface", render.SURFACES)
def test_the_ball_strikes_a_surface_and_goes_away_from_it(surface):
  ball = make_ball(surface, [0.5, 1.0, 1.7])
  place, _ = render.SURFACES[surface]
  x, y = render.ball_path(ball, np.array(ball.impacts))
  np.testing.assert_allclose([x, y], np.outer(place, np.ones(3)))
  away = np.array([0.1, 0.75, 1.35, 1.9])
  x, y = render.ball_path(ball, away)
  gone = np.hypot(x - place[0], y - place[1])
  assert gone.min() > 8 and (x + y < sum(place)).all()
  assert gone[1] < gone[2] == gone[0]  # a low bounce, drops from high up


def test_the_foreground_is_face_and_ball(scene):
  mask = foreground(scene)
  assert mask.shape == (49, 64, 64)
  disc = np.pi * (render.FACE_RADIUS**2 + render.BALL_RADIUS**2)
  np.testing.assert_allclose(mask.sum((1, 2)), disc, rtol=0.04)


def test_only_distractors_change_outside_the_foreground(scene):
  change = np.ptp(render.render_video(scene).astype(int), axis=0).max(-1)
  reached = foreground(scene).any(0)
  for axis in (0, 1):  # the soft edge is a pixel wide
    reached |= np.roll(reached, 1, axis) | np.roll(reached, -1, axis)
  changed = np.argwhere((change > 0) & ~reached)
  assert len(changed) and changed[:, 0].max() < 21  # the square and the TV

"""What is read off a clip is what the scene says."""

import numpy as np
import pytest

from ccl_jax.codecs.mel import log_mel
from ccl_jax.data.synthetic import render
from ccl_jax.data.synthetic.scene import VOICES, mouth_shape
from ccl_jax.metrics import tracks
from tests.metrics.worlds import FPS, make_world

TIME = np.arange(49) / FPS


@pytest.fixture(scope="module")
def world():
  return make_world(8, hard=True)


def test_the_face_is_identified_and_followed(world):
  for scene, video in zip(world.scenes, world.videos, strict=True):
    face = tracks.find_face(video)
    assert VOICES[face.voice] == scene.voice
    truth = np.stack(render.head_path(scene, TIME), 1)
    assert np.abs(face.centre - truth).max() < 3


@pytest.mark.parametrize("noise", [0, 51])
def test_the_mouth_s_opening_is_the_true_aperture(world, noise):
  rng = np.random.default_rng(0)
  for scene, video in zip(world.scenes, world.videos, strict=True):
    noisy = np.clip(video + rng.normal(0, noise, video.shape), 0, 255)
    face = tracks.find_face(video)
    opening = tracks.mouth_opening(noisy.astype(np.uint8), face)
    height, width = mouth_shape(scene.syllables, TIME)
    truth = np.pi * height * width
    # A narrow vowel alone moves the mouth least.
    exact = 0.996 if set(scene.vowels) == {"u"} else 0.998
    assert np.corrcoef(opening, truth)[0, 1] > (0.97 if noise else exact)


def test_opening_and_impacts_do_not_depend_on_the_size(world):
  scene = next(s for s in world.scenes if s.ball)
  small, large = (render.render_video(scene, size=n) for n in (64, 128))
  opening = [
    tracks.mouth_opening(v, tracks.find_face(v)) for v in (small, large)
  ]
  np.testing.assert_allclose(*opening, atol=8)
  assert np.corrcoef(opening)[0, 1] > 0.995
  np.testing.assert_allclose(
    tracks.find_impacts(small, FPS), tracks.find_impacts(large, FPS), atol=0.01
  )


def test_impacts_and_clicks_are_found_in_time(world):
  for scene, video, mel in zip(
    world.scenes, world.videos, world.mels, strict=True
  ):
    truth = scene.impacts[scene.impacts < 1.9]
    seen, heard = tracks.find_impacts(video, FPS), tracks.find_clicks(mel)
    np.testing.assert_allclose(seen[: len(truth)], truth, atol=0.01)
    np.testing.assert_allclose(heard[: len(truth)], truth + 0.005, atol=0.005)
    if scene.ball is None:
      assert len(seen) == len(heard) == 0


def test_vowels_and_pitch_are_decoded(world):
  for scene, mel in zip(world.scenes, world.mels, strict=True):
    vowels, pitch = tracks.decode_speech(mel)
    assert vowels == scene.speech.split()
    assert VOICES[pitch] == scene.voice


@pytest.mark.parametrize("level", [1e-3, 30])
def test_sound_of_another_level_is_neither_speech_nor_clicks(world, level):
  clips = zip(world.scenes, world.sounds, strict=True)
  sound = next(sound for scene, sound in clips if scene.ball)
  mel = log_mel(np.clip(level * sound, -1, 1)[None])[0]
  assert not tracks.speech_energy(mel, 49, FPS).any()
  assert len(tracks.find_clicks(mel)) == 0


def test_a_mouth_is_dark_beside_its_face_in_any_light(world):
  video = world.videos[0]
  face = tracks.find_face(video)
  dim = np.uint8(0.8 * video)
  np.testing.assert_allclose(
    tracks.mouth_opening(dim, face), tracks.mouth_opening(video, face), atol=2
  )
  still = video[:1].repeat(49, 0)
  fading = np.uint8(still * np.linspace(1, 0.6, 49)[:, None, None, None])
  assert not tracks.mouth_opening(fading, face).any()


def test_silence_says_nothing():
  mel = np.full((122, 80), -5.0)
  assert tracks.decode_speech(mel) == ([], None)
  assert len(tracks.find_clicks(mel)) == 0
  np.testing.assert_allclose(tracks.speech_energy(mel, 49, FPS), 0, atol=1e-3)


def test_an_empty_picture_has_no_impacts_and_no_opening():
  video = np.full((9, 64, 64, 3), 160, np.uint8)
  assert len(tracks.find_impacts(video, FPS)) == 0
  assert tracks.find_face(video) is None
  assert not tracks.tv_opening(video).any()


def test_peaks_are_refined_below_a_frame():
  time = np.arange(20)
  track = -((time - 7.3) ** 2)
  np.testing.assert_allclose(tracks.peak_times(track, 1.0), [7.3])
  assert tracks.refine_peak(track, 0) == 0.0

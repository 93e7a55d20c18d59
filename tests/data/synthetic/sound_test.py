"""What is heard when, and in which band."""

import numpy as np
import pytest

from ccl_jax.codecs.mel import log_mel
from ccl_jax.data.synthetic.scene import VOWELS, draw_scene
from ccl_jax.data.synthetic.sound import render_sound, render_vowel

SEEDS = range(100)
RATE = 16_000


def band_energy(sound, low, high):
  power = np.abs(np.fft.rfft(sound)) ** 2
  hz = np.fft.rfftfreq(len(sound), 1 / RATE)
  return power[(hz > low) & (hz < high)].sum()


def test_clicks_sound_at_impacts_alone_above_4200_hz():
  scene = next(s for s in map(draw_scene, SEEDS) if s.ball)
  sound = render_sound(scene)
  assert sound.dtype == np.float32 and np.abs(sound).max() <= 1
  time = np.arange(len(sound)) / RATE
  near = (np.abs(time[:, None] - scene.impacts - 0.02) < 0.04).any(1)
  quiet = band_energy(np.where(near, 0, sound), 4500, 8000)
  assert band_energy(sound, 4500, 8000) > 20 * quiet


@pytest.mark.parametrize("vowel", VOWELS)
def test_vowels_have_their_loudness_pitch_and_stay_below_the_clicks(vowel):
  time = np.arange(RATE) / RATE
  sound = render_vowel(vowel, 160.0, time)
  loudness = VOWELS[vowel].loudness
  np.testing.assert_allclose(10 * sound.std(), loudness, rtol=0.01)
  power = np.abs(np.fft.rfft(sound)) ** 2
  harmonics = np.arange(160, 2801, 160)
  assert power[harmonics].sum() > 0.999 * power.sum()


def test_sound_at_another_rate_is_the_same_sound():
  scene = next(s for s in map(draw_scene, SEEDS) if not s.ball)
  low = render_sound(scene, RATE)
  high = render_sound(scene, 3 * RATE)[::3]
  assert np.corrcoef(low, high)[0, 1] > 0.99


def test_sounding_covers_speech_and_clicks():
  scenes = map(draw_scene, SEEDS)
  scene = next(s for s in scenes if s.ball and not s.chirps)
  change = np.diff(render_sound(scene))  # without the hum

  def level(time):
    return change[round(time * RATE) : round((time + 0.01) * RATE)].std()

  middles = [(s.start + s.stop) / 2 for s in scene.syllables]
  for time in (*middles, *scene.impacts):
    assert level(time) > 3 * level(0.0)


def test_hum_and_noise_lie_far_below_speech():
  scene = draw_scene(0)
  mel = log_mel(render_sound(scene)[None])[0]
  loud = mel[:, 5:35].max(1)
  assert np.median(np.sort(loud)[-20:]) > np.median(np.sort(loud)[:20]) + 1

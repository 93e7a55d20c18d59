"""Checks of sound and pictures on planted faults."""

import numpy as np
import pytest

from ccl_jax.metrics.real.signal import measure_pictures, measure_sound

RATE = 16_000


def tone(amplitude, seconds=1.0):
  time = np.arange(round(seconds * RATE)) / RATE
  return (amplitude * np.sin(2 * np.pi * 440 * time)).astype(np.float32)


def noise(frames=8, size=(96, 128), seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (frames, *size, 3), np.uint8)


def test_level_of_a_sine():
  found = measure_sound(tone(0.5))
  assert found["level_db"] == pytest.approx(20 * np.log10(0.5 / 2**0.5), 1e-3)
  assert found["silent_share"] == 0


def test_a_quarter_of_silence():
  wave = tone(0.5)
  wave[: RATE // 4] = 0
  share = measure_sound(wave)["silent_share"]
  assert share == pytest.approx(0.25, abs=0.03)


def test_all_silence_is_a_number():
  found = measure_sound(np.zeros(RATE, np.float32))
  assert found == {"level_db": -100.0, "silent_share": 1}


def test_short_sound_is_measured():
  assert measure_sound(tone(0.5, 0.001))["silent_share"] == 0


def test_black_frames_are_counted_and_dark_scenes_with_light_are_not():
  video = noise()
  video[:2] = 5
  assert measure_pictures(video)["black_share"] == 0.25
  night = np.zeros_like(video)
  night[:, :12, :16] = 255  # a lamp
  assert measure_pictures(night)["black_share"] == 0


def test_held_frames_are_static():
  video = noise(9)
  video[5:] = video[4]
  assert measure_pictures(video)["static_share"] == 0.5


def test_one_frame_and_pictures_of_a_few_pixels():
  assert measure_pictures(noise(1))["static_share"] == 1
  assert measure_pictures(noise(4, (3, 2)))["static_share"] == 0

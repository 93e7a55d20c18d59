"""What is cut off in a file counts alike, whatever its rate and format."""

import numpy as np
import pytest
import soundfile

from ccl_jax.data.clipping import clipped_share


def sine(amplitude, rate, frequency=440, seconds=2.0):
  time = np.arange(round(seconds * rate)) / rate
  return amplitude * np.sin(2 * np.pi * frequency * time)


def share(path, wave, rate, subtype="PCM_16", **times):
  soundfile.write(path, wave, rate, subtype)
  return clipped_share(path, **times)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
@pytest.mark.parametrize("level", [1.0, 0.99])
@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
def test_a_clipped_wave_is_so_at_all_rates(tmp_path, rate, level, subtype):
  wave = level * np.clip(sine(1.5, rate), -1, 1)
  expected = 1 - 2 / np.pi * np.arcsin(1 / 1.5)
  found = share(tmp_path / "a.wav", wave, rate, subtype)
  assert found == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("frequency", [20, 50, 440, 1000, 4000])
@pytest.mark.parametrize("rate", [16_000, 48_000])
def test_sines_and_clicks_are_not_clipped(tmp_path, rate, frequency):
  wave = sine(1.0, rate, frequency)
  click = 0.1 * wave
  click[100] = 1.0
  # The top of a slow one is flat for a few samples of 16 bits.
  assert share(tmp_path / "a.wav", wave, rate) < 0.01
  for each in (0.9 * wave, 1e-3 * wave, 0 * wave, click):
    assert share(tmp_path / "a.wav", each, rate) == 0


def test_channels_and_times_are_told_apart(tmp_path):
  loud = np.clip(sine(1.5, 48_000), -1, 1)
  both = np.stack([loud, 0.1 * loud], 1)
  whole = share(tmp_path / "a.flac", loud, 48_000)
  assert share(tmp_path / "b.flac", both, 48_000) == pytest.approx(whole / 2)
  late = np.concatenate([0.1 * loud, loud])
  times = [{"start": 0.0, "seconds": 1.5}, {"start": 2.1}, {}]
  shares = [share(tmp_path / "c.wav", late, 48_000, **x) for x in times]
  assert shares == pytest.approx([0, whole, whole / 2], abs=0.02)

import numpy as np
import pytest

from ccl_jax.codecs import mel


def _tone(seconds=1.0, hz=440.0):
  time = np.arange(round(seconds * mel.SAMPLE_RATE)) / mel.SAMPLE_RATE
  return (0.5 * np.sin(2 * np.pi * hz * time)).astype(np.float32)[None]


def test_log_mel_is_its_definition():
  wave = np.random.default_rng(0).normal(size=(2, 2600)).astype(np.float32)
  result = mel.log_mel(wave)
  assert result.shape == (2, 2600 // 256, 80)
  padded = np.pad(wave, ((0, 0), (384, 384)), mode="reflect")
  window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1024) / 1024)
  frame = padded[1, 3 * 256 : 3 * 256 + 1024] * window
  expected = np.log10(mel.filter_bank() @ np.abs(np.fft.rfft(frame)))
  np.testing.assert_allclose(result[1, 3], expected, atol=1e-5)


def test_silence_is_the_floor():
  assert np.all(mel.log_mel(np.zeros((1, 1024), np.float32)) == -5)


def test_griffin_lim_keeps_the_mel_and_is_deterministic():
  rng = np.random.default_rng(0)
  envelope = 0.2 * (1 + np.sin(np.arange(16_000) / 900))
  original = mel.log_mel((rng.normal(size=(1, 16_000)) * envelope).astype("f"))
  wave = mel.griffin_lim(original)
  assert wave.shape == (1, 256 * original.shape[1])
  np.testing.assert_array_equal(wave, mel.griffin_lim(original))
  assert np.abs(mel.log_mel(wave) - original).mean() < 0.06


def test_griffin_lim_does_not_move_sounds_in_time():
  wave = _tone() * (np.arange(16_000) > 8_000)
  energy = np.abs(mel.griffin_lim(mel.log_mel(wave))[0])
  onset = np.argmax(energy > 0.1)
  assert abs(onset - 8_000) < 300  # About one hop: 16 ms.


def test_too_short_a_wave_is_an_error():
  with pytest.raises(ValueError, match="at least 512 samples"):
    mel.log_mel(np.zeros((1, 500), np.float32))

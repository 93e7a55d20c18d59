"""Log-mel by its definition, and back to a wave."""

import numpy as np
import pytest

from ccl_jax.codecs import mel


def _tone(seconds=1.0, hz=440.0):
  time = np.arange(round(seconds * mel.SAMPLE_RATE)) / mel.SAMPLE_RATE
  return (0.5 * np.sin(2 * np.pi * hz * time)).astype(np.float32)[None]


@pytest.mark.parametrize("config", [mel.MEL_16K, mel.MEL_44K], ids=str)
def test_log_mel_is_its_definition(config):
  n, hop, pad = config.n_fft, config.hop, config.padding
  samples = 10 * hop + 40
  wave = np.random.default_rng(0).uniform(-1, 1, (2, samples)).astype("f")
  result = mel.log_mel(wave, config)
  assert result.shape == (2, 10, config.num_mels)
  assert result.dtype == np.float32
  padded = np.pad(wave, ((0, 0), (pad, pad)), mode="reflect")
  window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / n)
  frame = padded[1, 3 * hop : 3 * hop + n] * window
  magnitude = np.sqrt(np.abs(np.fft.rfft(frame)) ** 2 + 1e-9)
  expected = np.log(mel.filter_bank(config) @ magnitude)
  expected /= np.log(config.base)
  np.testing.assert_allclose(result[1, 3], expected, atol=1e-5)


def test_silence_is_the_floor():
  silence = np.zeros((1, 2048), np.float32)
  assert np.all(mel.log_mel(silence) == mel.SILENCE)
  natural = mel.log_mel(silence, mel.MEL_44K)
  # In the narrowest filters, the 1e-9 under the root is above the floor.
  np.testing.assert_allclose(natural, np.log(1e-5), atol=0.5)


def test_loud_sound_is_clipped():
  wave = 4 * _tone()
  np.testing.assert_array_equal(
    mel.log_mel(wave), mel.log_mel(np.clip(wave, -1, 1))
  )


def test_griffin_lim_keeps_the_mel_and_is_deterministic():
  rng = np.random.default_rng(0)
  envelope = 0.05 * (1 + np.sin(np.arange(16_000) / 900))
  original = mel.log_mel((rng.normal(size=(1, 16_000)) * envelope).astype("f"))
  wave = mel.griffin_lim(original)
  assert wave.shape == (1, 256 * original.shape[1])
  np.testing.assert_array_equal(wave, mel.griffin_lim(original))
  assert np.abs(mel.log_mel(wave) - original).mean() < 0.06


def test_what_is_not_finite_or_far_too_loud_is_a_finite_wave():
  wrong = np.array([np.nan, np.inf, -np.inf, 50.0], np.float32)
  made = mel.griffin_lim(np.broadcast_to(wrong[:, None, None], (4, 20, 80)))
  assert np.isfinite(made).all()
  assert not made[[0, 2]].any() or np.abs(made[[0, 2]]).max() < 1e-3


@pytest.mark.parametrize("config", [mel.MEL_16K, mel.MEL_44K], ids=str)
def test_a_wave_does_not_depend_on_its_batch(config):
  """Bit for bit: not on the number of items, nor on the order."""
  waves = np.random.default_rng(0).normal(0, 0.1, (3, 16_000)).astype("f")
  mels = mel.log_mel(waves, config)
  together = mel.griffin_lim(mels, config=config)
  for i in range(3):
    alone = mel.griffin_lim(mels[i : i + 1], config=config)[0]
    np.testing.assert_array_equal(together[i], alone)
    np.testing.assert_array_equal(
      mel.log_mel(waves[i : i + 1], config)[0], mels[i]
    )
  others = mel.griffin_lim(mels[[2, 0]], config=config)
  np.testing.assert_array_equal(others, together[[2, 0]])


def test_griffin_lim_does_not_move_sounds_in_time():
  wave = _tone() * (np.arange(16_000) > 8_000)
  energy = np.abs(mel.griffin_lim(mel.log_mel(wave))[0])
  onset = np.argmax(energy > 0.1)
  assert abs(onset - 8_000) < 300  # About one hop: 16 ms.


@pytest.mark.parametrize(
  ("config", "least"), [(mel.MEL_16K, 512), (mel.MEL_44K, 1024)], ids=str
)
def test_too_short_a_wave_is_an_error(config, least):
  assert mel.log_mel(np.zeros((1, least), "f"), config).shape[1] == 2
  with pytest.raises(ValueError, match=f"at least {least} samples"):
    mel.log_mel(np.zeros((1, least - 1), np.float32), config)

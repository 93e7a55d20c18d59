"""Metrics whose models are in packages."""

import numpy as np
import pytest

from ccl_jax.metrics.real import speech
from ccl_jax.metrics.real.metric import MeasuredClip, NotMeasuredError, Options

RATE = 16_000


def clip(audio):
  return MeasuredClip("a.wav", audio=audio.astype(np.float32))


def sine(amplitude, hertz=1000.0, seconds=2.0):
  time = np.arange(round(seconds * RATE)) / RATE
  return amplitude * np.sin(2 * np.pi * hertz * time)


def test_loudness_of_the_reference_tone():
  """ITU-R BS.1770: a full 997 Hz sine in one channel is -3.01 LKFS."""
  measure = speech.LOUDNESS.open(Options()).measure
  full = measure(clip(sine(1.0, 997)))["lufs"]
  assert full == pytest.approx(-3.01, abs=0.1)
  assert measure(clip(sine(0.1, 997)))["lufs"] == pytest.approx(full - 20, 1e-3)


@pytest.mark.parametrize(
  "audio, reason",
  [(np.zeros(RATE), "silent"), (sine(1, seconds=0.2), "shorter than 0.4 s")],
)
def test_sound_without_loudness(audio, reason):
  with pytest.raises(NotMeasuredError, match=reason):
    speech.LOUDNESS.open(Options()).measure(clip(audio))


def test_dnsmos_of_noise_is_low_and_silence_ends():
  scorer = speech.DNSMOS.open(Options())
  noise = np.random.default_rng(0).normal(0, 0.3, RATE)
  found = scorer.measure(clip(noise))
  assert found.keys() == {"ovrl", "sig", "bak", "p808"}
  assert all(1 <= value <= 5 for value in found.values())
  assert found["bak"] < 2.5
  for silent in (np.zeros(RATE), np.zeros(0)):
    with pytest.raises(NotMeasuredError, match="silent"):
      scorer.measure(clip(silent))


def test_noise_and_silence_are_no_speech():
  scorer = speech.SPEECH.open(Options())
  noise = np.random.default_rng(0).normal(0, 0.1, RATE)
  for audio in (noise, np.zeros(RATE), np.zeros(100)):
    assert scorer.measure(clip(audio)) == {"share": 0}
  assert len(scorer.protocol["sha256"]) == 64


def test_windows_of_speech_have_the_context_of_those_before():
  """A model that returns the first sample of a window and of its context."""

  class Session:
    def run(self, _, inputs):
      window = inputs["input"]
      assert window.shape == (1, 576)
      return window[:, :1], inputs["state"]

  audio = np.arange(1, 1101, dtype=np.float32)
  found = speech.speech_probability(Session(), audio)
  assert found.tolist() == [0, 512 - 64 + 1, 1024 - 64 + 1]

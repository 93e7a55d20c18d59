"""DeSync's segments, pictures, log-mel and formula by hand."""

import numpy as np
import pytest

from ccl_jax.metrics.real import desync, synchformer
from ccl_jax.metrics.real.metric import MeasuredClip, NotMeasuredError


@pytest.mark.parametrize(
  "frames, samples, expected",
  [
    (120, 76_800, 14), (125, 80_000, 14), (119, 76_800, 13),
    (120, 76_799, 13), (200, 128_000, 24), (10, 100, -9),
  ],
)  # fmt: skip
def test_segments_of_clips(frames, samples, expected):
  found = desync.num_segments(frames, samples)
  assert found == expected or (found < 1 and expected < 1)


def test_offsets_of_classes():
  for index, seconds in ((0, -2), (10, 0), (18, 1.6), (20, 2)):
    logits = np.zeros(21)
    logits[index] = 3
    assert desync.offset_of(logits) == pytest.approx(seconds)


def planted(monkeypatch, classes):
  """Networks that pass on what they get, and a classifier that is told."""
  monkeypatch.setattr(synchformer, "embed_video", lambda _, x: x)
  monkeypatch.setattr(synchformer, "embed_audio", lambda _, x: x)
  seen = []

  def classify(_, video, audio):
    seen.append((video, audio))
    return np.eye(21)[classes[len(seen) - 1]]

  monkeypatch.setattr(synchformer, "classify", classify)
  return seen


def clip(frames):
  video = np.zeros((frames, 24, 32, 3), np.uint8)
  video[:] = np.arange(frames, dtype=np.uint8)[:, None, None, None]
  rng = np.random.default_rng(0)
  audio = rng.normal(0, 0.1, frames * 640).astype(np.float32)
  return MeasuredClip("a.mp4", "", video, audio)


def test_first_and_last_segments_of_eight_seconds(monkeypatch):
  seen = planted(monkeypatch, [8, 15])  # -0.4 and 1 s
  score = desync.measure_clip({}, clip(200))
  expected = {"desync": 0.7, "first": -0.4, "last": 1.0}
  assert score == pytest.approx(expected)
  for (video, audio), start in zip(seen, (0, 10), strict=True):
    assert video.shape == (14, 16, 224, 224, 3) and audio.shape == (14, 66, 128)
    frames = np.round((video[:, :, 0, 0, 0] + 1) * 127.5)
    expected = 8 * (start + np.arange(14))[:, None] + np.arange(16)
    np.testing.assert_array_equal(frames, expected)


def test_both_ends_of_five_seconds_are_the_same(monkeypatch):
  seen = planted(monkeypatch, [10, 10])
  assert desync.measure_clip({}, clip(125))["desync"] == 0
  np.testing.assert_array_equal(seen[0][1], seen[1][1])


def test_short_clips_are_not_measured():
  for frames in (1, 119):
    with pytest.raises(NotMeasuredError, match=r"shorter than 4\.8 s"):
      desync.measure_clip({}, clip(frames))


def test_log_mel_by_its_definition():
  """Hann windows of 400, centred in 1024, triangles in Hz of equal mel."""
  audio = np.random.default_rng(0).normal(0, 0.1, 10_240)
  found = desync.log_mel(audio)
  window = np.pad(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400), 312)
  padded = np.pad(audio, 512, mode="reflect")
  power = np.abs(np.fft.rfft(padded[3 * 160 :][:1024] * window)) ** 2
  mels = np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 130)
  points = 700 * (10 ** (mels / 2595) - 1)
  hertz = np.arange(513) * 16_000 / 1024
  up = (hertz - points[:-2, None]) / np.diff(points)[:-1, None]
  down = (points[2:, None] - hertz) / np.diff(points)[1:, None]
  logs = np.log(np.minimum(up, down).clip(0) @ power + 1e-6)
  expected = (logs + 4.2677393) / (2 * 4.5689974)
  np.testing.assert_allclose(found[3], expected, rtol=1e-3, atol=1e-4)
  np.testing.assert_allclose(found[65], 4.2677393 / (2 * 4.5689974), rtol=1e-5)


@pytest.mark.parametrize("size", [(48, 64), (64, 48), (224, 224), (300, 500)])
def test_the_centre_is_cropped(size):
  frame = np.zeros((*size, 3), np.uint8)
  y, x = np.mgrid[: size[0], : size[1]]
  frame[..., 0] = 255 * (abs(y + 0.5 - size[0] / 2) < min(size) / 4)
  frame[..., 1] = 255 * (abs(x + 0.5 - size[1] / 2) < min(size) / 4)
  found = desync.crop(frame)
  assert found.shape == (224, 224, 3)
  for axis, channel in ((1, 0), (0, 1)):
    share = found[..., channel].mean(axis) / 255
    assert share.mean() == pytest.approx(0.5, abs=0.03)
    assert share @ np.arange(224) / share.sum() == pytest.approx(111.5, abs=2)

"""SyncNet's formulas by hand, delays, and which clips are measured."""

import numpy as np
import pytest

from ccl_jax.metrics.real import faces, sync, syncnet
from ccl_jax.metrics.real.metric import (
  MeasuredClip,
  NotMeasuredError,
  NotRunError,
  Options,
)


def test_scores_by_hand():
  distances = np.full(31, 9.0)
  distances[18], distances[3] = 6.5, 12.0
  assert sync.score_distances(distances) == (2.5, 6.5, -3)


def test_distances_by_hand():
  """Beyond the ends the voice is 0, and 1e-6 is added to each channel."""
  face, voice = np.array([[3.0, 0.0], [0.0, 4.0]]), np.array([[0, 0.0], [3, 0]])
  found = sync.mean_distances(face, voice)
  assert found.shape == (31,)
  assert found[15] == pytest.approx((3 + 5) / 2, abs=1e-5)  # k = 0
  assert found[16] == pytest.approx((0 + 4) / 2, abs=1e-5)  # k = 1
  assert found[0] == pytest.approx((3 + 4) / 2, abs=1e-5)
  equal = sync.mean_distances(voice, voice)[15]
  assert equal == pytest.approx(1e-6 * 2**0.5)


@pytest.mark.parametrize("late", [-15, -4, 0, 1, 9])
def test_a_late_voice_moves_the_offset(late):
  track = np.random.default_rng(0).normal(size=(100, 8))
  voice = np.roll(track, late, axis=0)
  score = sync.score_distances(sync.mean_distances(track[20:80], voice[20:80]))
  assert score.offset == -late and score.confidence > 1


def test_delaying_the_wave_by_frames_delays_its_features():
  wave = np.random.default_rng(0).normal(0, 0.1, 32_000)
  late = np.concatenate([np.zeros(3 * 640), wave])
  # Sums are rounded by where in memory a frame lies.
  np.testing.assert_allclose(
    sync.mfcc(late)[13:200], sync.mfcc(wave)[1:188], rtol=1e-9, atol=1e-9
  )


def test_mfcc_of_silence_and_of_a_few_samples_are_numbers():
  for length in (0, 1, 399, 16_000):
    found = sync.mfcc(np.zeros(length))
    assert found.shape[1] == 13 and np.isfinite(found).all()


def test_mfcc_of_one_frame_by_its_definition():
  """One frame and one filter at a time, with a DCT written out."""
  rng = np.random.default_rng(0)
  wave = np.round(rng.normal(0, 3000, 400))
  x = np.append(wave[0], wave[1:] - 0.97 * wave[:-1])
  power = np.abs(np.fft.fft(x, 512)[:257]) ** 2 / 512
  mels = np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 28)
  points = np.floor(513 * 700 * (10 ** (mels / 2595) - 1) / 16_000).astype(int)
  logs = []
  for a, b, c in zip(points, points[1:], points[2:], strict=False):
    up = sum(power[i] * (i - a) / (b - a) for i in range(a, b))
    down = sum(power[i] * (c - i) / (c - b) for i in range(b, c))
    logs.append(np.log(up + down))
  n = np.arange(13)[:, None]
  cosines = np.cos(np.pi * n * (2 * np.arange(26) + 1) / 52) * (2 / 26) ** 0.5
  expected = cosines @ logs * (1 + 11 * np.sin(np.pi * n[:, 0] / 22))
  expected[0] = np.log(power.sum())
  np.testing.assert_allclose(sync.mfcc(wave / 32768)[0], expected, rtol=1e-9)


@pytest.fixture(scope="module")
def options(tmp_path_factory):
  """Random weights in a file."""
  import torch

  folder = tmp_path_factory.mktemp("weights")
  rng = np.random.default_rng(0)
  arrays = {
    name: torch.from_numpy(
      np.abs(rng.normal(size=shape)).astype(np.float32) / 50
    )
    for name, shape in syncnet.expected_shapes().items()
  }
  torch.save(arrays, folder / syncnet.FILE)
  return Options(folder, faces="tests.metrics.real.sync_test:detect")


def detect(video):
  """Finds a face where the red of the first pixel is not 0."""
  box = (20.0, 20.0, 80.0, 80.0)
  return [[box] if frame[0, 0, 0] else [] for frame in video]


def clip(frames=60, faces=60):
  rng = np.random.default_rng(0)
  video = rng.integers(1, 256, (frames, 100, 100, 3), np.uint8)
  video[faces:, 0, 0] = 0
  audio = rng.normal(0, 0.1, frames * 640).astype(np.float32)
  return MeasuredClip("a.mp4", "", video, audio)


def test_clips_without_a_face_or_sound_are_not_measured(options):
  measure = sync.SYNC.open(options).measure
  for wrong in (clip(faces=0), clip(faces=50)):
    with pytest.raises(NotMeasuredError, match="without a face for 50 frames"):
      measure(wrong)
  silent = MeasuredClip("a.mp4", "", clip().video, np.zeros(38_400, np.float32))
  with pytest.raises(NotMeasuredError, match="silent"):
    measure(silent)


def test_what_is_missing_is_told(options):
  with pytest.raises(NotRunError, match=r"put syncnet_v2\.model into"):
    sync.SYNC.open(Options())
  for name, text in (
    ("", "name a face detector"),
    ("nothing:x", "cannot be imported"),
    ("numpy:pi", "is no function"),
  ):
    with pytest.raises(NotRunError, match=text):
      sync.SYNC.open(Options(options.weights, faces=name))


def test_a_face_is_found_again_after_a_gap_and_interpolated():
  boxes = [[(t / 2, 0, 50 + t / 2, 60)] for t in range(80)]
  boxes[30:50] = [[]] * 20
  (track,) = faces.find_tracks(boxes, (200, 200))
  assert list(track.frames) == list(range(80))
  np.testing.assert_allclose(track.boxes[40], (20, 0, 70, 60))


def test_two_faces_are_two_tracks_and_a_jump_ends_one():
  left, right = (0.0, 0.0, 60.0, 60.0), (100.0, 0.0, 160.0, 60.0)
  both = faces.find_tracks([[left, right]] * 60, (200, 200))
  assert [track.boxes[0, 0] for track in both] == [0, 100]
  jump = faces.find_tracks([[left]] * 60 + [[right]] * 70, (200, 200))
  assert [len(track.frames) for track in jump] == [60, 70]


def test_small_faces_are_passed_over_and_wrong_boxes_told():
  assert not faces.find_tracks([[(0.0, 0.0, 30.0, 30.0)]] * 60, (200, 200))
  for box in ((0, 0, 5), (9, 0, 5, 5), (0, 0, np.nan, 5), (300, 0, 350, 50)):
    with pytest.raises(ValueError, match="the face detector found"):
      faces.find_tracks([[box]], (200, 200))


def test_the_whole_picture_is_cropped_whole():
  video = np.random.default_rng(0).integers(0, 256, (60, 224, 224, 3), np.uint8)
  (track,) = faces.find_tracks(faces.whole_picture(video), (224, 224))
  crop = faces.crop_faces(video, track)[30]
  error = np.abs(crop.astype(int) - video[30])
  assert np.median(error) < 30  # within a pixel, whose neighbours differ by 85


def test_bilinear_scaling_by_hand():
  image = np.array([[0, 100], [200, 100]], np.uint8)[..., None].repeat(3, 2)
  found = faces.resize(image, 4)[..., 0]
  assert found[0].tolist() == [0, 25, 75, 100]
  assert found[:, 0].tolist() == [0, 50, 150, 200]

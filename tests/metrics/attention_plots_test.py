"""Plots of attention shares."""

import json

import numpy as np

from ccl_jax.data import media
from ccl_jax.data.clip import GeneratedClip
from ccl_jax.metrics import attention_plots

F, H, W, C = 4, 2, 3, 5
STEPS, LAYERS = (0, 7), (1,)


def shares():
  rng = np.random.default_rng(0)
  return {
    "video": rng.uniform(size=(2, 1, F, H, W)).astype(np.float32),
    "audio": rng.uniform(size=(2, 1, F * C)).astype(np.float32),
  }


def clip(frames=13, **fields):
  rng = np.random.default_rng(1)
  options = dict(
    video=rng.integers(0, 255, (frames, 32, 48, 3), np.uint8),
    audio=rng.uniform(-0.1, 0.1, 8320).astype(np.float32),
    mel=rng.uniform(-5, 1, (32, 80)).astype(np.float32),
  )
  return GeneratedClip(25.0, 16_000, **(options | fields))


def test_files_beside_the_result(tmp_path):
  found = shares()
  written = attention_plots.save_plots(
    tmp_path / "a.mp4", found, clip(), STEPS, LAYERS
  )
  assert sorted(p.name for p in tmp_path.iterdir()) == [
    "a.attention.json", "a.attention.mp4", "a.attention.png",
  ]  # fmt: skip
  assert {p.name for p in written} == {p.name for p in tmp_path.iterdir()}
  rows = json.loads((tmp_path / "a.attention.json").read_text())
  assert [(r["step"], r["layer"]) for r in rows] == [(0, 1), (7, 1)]
  for i, row in enumerate(rows):
    for s, x in found.items():
      assert abs(row[s] - x[i, 0].mean()) < 1e-4
  shown = media.read_clip(
    tmp_path / "a.attention.mp4", fps=25.0, size=(32, 48), frames=13,
    sample_rate=16_000,
  )  # fmt: skip
  assert shown.video.shape == (13, 32, 48, 3)


def test_only_sound_and_nothing_at_all(tmp_path):
  audio = {"audio": shares()["audio"]}
  alone = clip(video=None)
  path = tmp_path / "b.wav"
  written = attention_plots.save_plots(path, audio, alone, STEPS, LAYERS)
  assert [p.suffix for p in written] == [".png", ".json"]
  assert not attention_plots.save_plots(
    tmp_path / "c", {}, alone, STEPS, LAYERS
  )


def test_a_frame_shows_its_latent_frame():
  share = np.zeros((F, H, W), np.float32)
  share[2] = 1  # pixel frames 5 to 8
  black = np.zeros((13, 16, 24, 3), np.uint8)
  shown = attention_plots.overlay(black, share).mean((1, 2, 3))
  dark, bright = shown[0], shown[5]
  assert bright > dark + 50
  expected = [bright if 5 <= t <= 8 else dark for t in range(13)]
  np.testing.assert_array_equal(shown, expected)


def test_brightest_is_the_top_of_the_clip():
  colours = attention_plots.heat(np.array([0.0, 0.2, 0.4], np.float32), 0.4)
  assert colours.shape == (3, 3)
  assert (np.diff(colours.astype(int).sum(-1)) > 0).all()

"""Attention on the context tokens, of maps that are planted."""

import dataclasses

import numpy as np
import pytest

from ccl_jax.data.clip import GeneratedClip
from ccl_jax.metrics import attention_auc, tracks
from tests.metrics.worlds import FPS, make_world

GRID = (13, 16, 16)
STEPS, LAYERS = 2, 1


@pytest.fixture(scope="module")
def clips():
  world = make_world(6, hard=True)
  return [
    GeneratedClip(FPS, 16_000, *streams)
    for streams in zip(world.videos, world.sounds, world.mels, strict=True)
  ]


def planted(clip, stream, foreground, background):
  """Shares of the other stream: one for tokens with foreground, one else."""
  find = {
    "video": lambda: attention_auc.find_video_parts(clip, GRID),
    "audio": lambda: attention_auc.find_audio_parts(clip, (65,)),
  }
  parts = find[stream]()
  names = attention_auc.FOREGROUND[stream]
  front = np.any([parts.masks[name] for name in names], 0)
  tokens = np.bincount(parts.token[front], minlength=parts.token.max() + 1) > 0
  share = np.where(tokens, foreground, background).astype(np.float32)
  shape = GRID if stream == "video" else (65,)
  return np.broadcast_to(share.reshape(shape), (STEPS, LAYERS, *shape))


@pytest.mark.parametrize("stream", ["video", "audio"])
def test_the_claim_inverted_and_no_relation(clips, stream):
  def auc(foreground, background):
    shares = {stream: planted(clips[0], stream, foreground, background)}
    found = attention_auc.measure(clips[0], shares)[stream]
    assert found["AUC"].shape == (STEPS, LAYERS)
    return found["AUC"].mean()

  # Tokens at the edge of a part have background too.
  assert auc(0.9, 0.1) > 0.85 and auc(0.1, 0.9) < 0.15
  assert auc(0.4, 0.4) == 0.5


def test_each_clip_of_a_batch_has_its_own_attention(clips):
  pair = clips[:2]
  for order in ((0.9, 0.1), (0.1, 0.9)):
    shares = [
      planted(clip, "audio", *levels)
      for clip, levels in zip(pair, (order, order[::-1]), strict=True)
    ]
    measured = attention_auc.measure_batch(pair, {"audio": np.stack(shares)})
    aucs = [found["audio"]["AUC"] for found in measured]
    assert [auc.shape for auc in aucs] == [(STEPS, LAYERS)] * 2
    likely, unlikely = aucs if order[0] > order[1] else aucs[::-1]
    assert (likely > 0.85).all() and (unlikely < 0.15).all()


def test_the_pairs_of_an_auc_are_counted():
  rng = np.random.default_rng(0)
  value = rng.integers(0, 5, 12).astype(float)
  high, low = (rng.integers(0, 3, 12).astype(float) for _ in range(2))
  pairs = [
    (a > b) + (a == b) / 2
    for a in np.repeat(value, high.astype(int))
    for b in np.repeat(value, low.astype(int))
  ]
  found = attention_auc.weighted_auc(value, high, low)
  assert found == pytest.approx(np.mean(pairs))
  assert np.isnan(attention_auc.weighted_auc(value, high, low * 0))


def test_each_part_has_the_mean_share_of_its_pixels(clips):
  rng = np.random.default_rng(1)
  other = rng.uniform(size=(STEPS, LAYERS, *GRID)).astype(np.float32)
  clip = next(c for c in clips if tracks.video_parts(c.video)["ball"].any())
  found = attention_auc.measure(clip, {"video": other})["video"]
  # Pixels of a frame have 4 x 4 tokens' size; frame t is latent (t + 3) // 4.
  pixels = 1 - other.repeat(4, 3).repeat(4, 4)
  pixels = pixels[:, :, (np.arange(49) + 3) // 4]
  masks = tracks.video_parts(clip.video)
  masks["background"] = ~(masks["face"] | masks["ball"])
  for name, mask in masks.items():
    expected = pixels[:, :, mask].mean(-1)
    np.testing.assert_allclose(found[name], expected, rtol=1e-4)


def test_the_parts_are_where_the_world_has_them(clips):
  ball = next(c for c in clips if tracks.video_parts(c.video)["ball"].any())
  parts = tracks.video_parts(ball.video)
  assert 600 < parts["face"].sum((1, 2)).mean() < 800  # a disc of radius 15
  assert 20 < parts["ball"].sum((1, 2)).mean() < 90  # of 4.5
  assert (parts["mouth"] & parts["face"]).sum() > 0.9 * parts["mouth"].sum()
  heard = tracks.sound_parts(ball.mel)
  assert 0 < heard["clicks"].mean() < 0.3 and 0.1 < heard["speech"].mean() < 0.9


def test_clips_without_a_face_or_a_part_have_no_weight(clips, tmp_path):
  black = dataclasses.replace(
    clips[0], video=np.zeros_like(clips[0].video),
    audio=np.zeros_like(clips[0].audio), mel=np.full_like(clips[0].mel, -5),
  )  # fmt: skip
  shares = {s: planted(clips[0], s, 0.9, 0.1) for s in attention_auc.FOREGROUND}
  nothing = attention_auc.measure(black, shares)
  assert "video" not in nothing and np.isnan(nothing["audio"]["AUC"]).all()
  one = attention_auc.measure(clips[0], shares)
  rows = attention_auc.summarize({"t2av": [one, nothing]}, [2])
  assert set(rows) == {"t2av video, layer 2", "t2av audio, layer 2"}
  row = rows["t2av video, layer 2"]
  assert row["AUC"][0] == one["video"]["AUC"].mean() and row["clips"][0] == 1
  (row,) = attention_auc.summarize({"t2av": [nothing]}, [2]).values()
  assert set(row) == {"background", "clips"}
  text = attention_auc.report("silence", {"t2a": row})
  assert "|  | background | clips |" in text
  attention_auc.plot(tmp_path / "a.png", {"t2a audio, layer 2": row})


def test_the_table_and_the_figure(clips, tmp_path):
  shares = [{"video": planted(c, "video", 0.9, 0.1)} for c in clips]
  found = list(map(attention_auc.measure, clips, shares))
  rows = attention_auc.summarize({"a2v": found}, [0])
  text = attention_auc.report("easy", rows)
  assert "| a2v video, layer 0 | 0.9" in text and "| 6 |" in text
  attention_auc.plot(tmp_path / "a.png", rows)
  assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")

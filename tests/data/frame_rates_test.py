"""Flashes and beeps stay together for 20 s, at every frame rate."""

import dataclasses

import numpy as np
import pytest

from ccl_jax.codecs.api import Codecs
from ccl_jax.data import decoding, loader, media, records
from ccl_jax.data.clip import ClipShape
from ccl_jax.data.encode import dataset
from tests.data.encode.dataset_test import SETTINGS

RATE, SIZE, BEEP = 16_000, (16, 16), 0.06


def write_clip(path, fps, frames, seed):
  """Writes flashes of one frame, each with a beep; returns their frames.

  The last one is 0.2 s before the end.
  """
  rng = np.random.default_rng(seed)
  spacing = rng.integers(round(0.8 * fps), round(1.6 * fps), 40)
  events = np.cumsum(spacing)
  last = frames - 1 - round(0.2 * fps)
  events = np.append(events[events < last - fps], last)
  video = rng.integers(0, 20, (frames, *SIZE, 3), np.uint8)
  video[events] = 255
  time = np.arange(round(frames / fps * RATE)) / RATE
  since = time[:, None] - events / fps
  beeps = np.any((since >= 0) & (since < BEEP), 1) * np.sin(6283 * time)
  sound = 0.5 * beeps + rng.normal(0, 1e-3, len(time))
  media.write_mp4(path, video, fps, sound.astype(np.float32), RATE)
  return events


@pytest.mark.parametrize("fps", [8.0, 24000 / 1001, 24.0, 28.0, 60.0])
def test_flashes_and_beeps_stay_together(fps, tmp_path):
  frames = 1 + 4 * round(5 * fps)
  folder, out = tmp_path / "clips", tmp_path / "data"
  folder.mkdir()
  events = [write_clip(folder / f"{i}.mp4", fps, frames, i) for i in range(3)]
  settings = dataclasses.replace(
    SETTINGS, fps=fps, frames=frames, size=SIZE, need_caption=False,
    validation_fraction=0.0, audio_channels=20,
  )  # fmt: skip
  summary = dataset.encode_dataset(folder, out, settings)
  assert not summary.left_out

  shape = ClipShape.from_dict(records.read_metadata(out))
  codecs = Codecs.load(out / "codecs")
  clip = loader.read_clips(out, "train", 1)
  latents = {s: clip[s] for s in ("video", "audio")}
  # To within a latent.
  m = latents["audio"].shape[1]
  assert m >= len(media.read_clip(folder / "0.mp4").audio) // 512 - 1
  assert abs(m - latents["video"].shape[1] * 125 / fps) <= 0.5
  (decoded,) = decoding.decode_clips(latents, codecs, shape)
  assert len(decoded.audio) == round(frames / fps * RATE)

  own = events[int(clip["name"][0][0])]
  brightness = decoded.video.mean((1, 2, 3))
  np.testing.assert_array_equal(np.flatnonzero(brightness > 128), own)
  for time in own / fps:
    first = round((time - 0.1) * RATE)
    near = np.square(decoded.audio[first : first + round(0.3 * RATE)])
    middle = (near @ np.arange(len(near))) / near.sum() / RATE - 0.1
    assert abs(middle - BEEP / 2) < 0.02

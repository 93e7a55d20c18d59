"""Learned codecs: many clips at once, over a mesh, and what is kept of them."""

import dataclasses

import jax
import numpy as np
import pytest

from ccl_jax.codecs.api import Codecs
from ccl_jax.data import loader, media, records
from ccl_jax.data.encode import batches, clip_files, dataset, decode_pool
from ccl_jax.params.sharding import Layout, make_mesh
from tests.data import clips

NUM = 7
SETTINGS = dataset.EncodeSettings(
  codec="wan", fps=clips.FPS, frames=clips.FRAMES, size=clips.SIZE,
  validation_fraction=0.0, num_workers=0, batch_size=3, need_video=False,
  need_audio=False,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Seven clips, one with no sound and one with nothing else."""
  path = tmp_path_factory.mktemp("clips")
  clips.write_clips(path, NUM)
  video, audio = clips.clip(2)
  media.write_mp4(path / "2.mp4", video, clips.FPS)
  (path / "3.mp4").unlink()
  media.write_wav(path / "3.wav", audio)
  text = (path / "captions.jsonl").read_text()
  (path / "captions.jsonl").write_text(text.replace("3.mp4", "3.wav"))
  return path


def test_a_mesh_takes_many_rows_and_always_as_many(folder, tmp_path, learned):
  rules = ((".*", (("data", "fsdp"),)),)
  layout = Layout(make_mesh(jax.devices()[:4]), activations=rules)
  codecs = learned(layout)
  dataset.encode_dataset(
    folder, tmp_path / "a", SETTINGS, codecs=codecs, layout=layout
  )
  # Three rows are rounded up to the mesh's four; 6 of 7 clips have a picture.
  assert codecs.video.shapes == [(4, clips.FRAMES, *clips.SIZE, 3)] * 2
  one = dataclasses.replace(SETTINGS, batch_size=1)
  dataset.encode_dataset(folder, tmp_path / "b", one, codecs=learned())
  a, b = (loader.read_clips(tmp_path / x, "train") for x in "ab")
  assert a["name"] == b["name"] and len(a["name"]) == NUM
  for name in ("video", "audio", "text", "has_video", "has_audio"):
    np.testing.assert_allclose(a[name], b[name], atol=1e-3)
  assert a["has_video"].tolist() == [i != 3 for i in range(NUM)]
  assert a["has_audio"].tolist() == [i != 2 for i in range(NUM)]


def test_the_variance_is_kept_where_there_is_one(folder, tmp_path, learned):
  dataset.encode_dataset(folder, tmp_path / "data", SETTINGS, codecs=learned())
  assert records.read_metadata(tmp_path / "data")["logvar"] == ["video"]
  split = records.open_split(tmp_path / "data", "train")
  video, _ = media.read_clip(folder / "0.mp4", frames=clips.FRAMES)
  mean, logvar = learned().video.posterior(video[None])
  np.testing.assert_allclose(split[0]["video"], mean[0], atol=2e-3)
  np.testing.assert_allclose(split[0]["video_logvar"], logvar[0], atol=5e-3)
  assert "audio_logvar" not in split[0]
  assert split[3]["video"].shape == split[3]["video_logvar"].shape
  assert len(split[3]["video"]) == len(split[2]["audio"]) == 1
  kinds = Codecs.load(tmp_path / "data" / "codecs")
  assert kinds.equals(learned())

  settings = dataclasses.replace(SETTINGS, keep_logvar=False)
  dataset.encode_dataset(folder, tmp_path / "mean", settings, codecs=learned())
  assert not records.read_metadata(tmp_path / "mean")["logvar"]
  other = records.open_split(tmp_path / "mean", "train")[0]
  np.testing.assert_array_equal(other["video"], split[0]["video"])
  assert "video_logvar" not in other


def test_where_shards_begin_does_not_depend_on_what_can_be_used():
  names = [
    clip_files.ClipFile(None, f"{i}", split="ab"[i % 2]) for i in range(7)
  ]
  jobs = batches.make_jobs(names, 2)
  found = [
    (j.split, j.index, "".join(c.name for c in j.clip_files)) for j in jobs
  ]
  assert found == [
    ("a", 0, "02"), ("a", 1, "46"), ("b", 0, "13"), ("b", 1, "5")
  ]  # fmt: skip


def test_batches_end_with_their_shard_and_count_only_what_can_be_used():
  class Pretended(decode_pool.DecodePool):
    def __call__(self, clip_files):
      for file in clip_files:
        bad = media.ClipError("bad")
        yield file, bad if file.name in "125" else media.Clip(None, None)

  names = [clip_files.ClipFile(None, f"{i}", split="a") for i in range(8)]
  jobs = batches.make_jobs(names, 4)
  found = [
    (b.index, "".join(file.name for file, _ in b.decoded))
    for b in batches.decode_batches(jobs, Pretended(0), 2)
  ]
  assert found == [(0, "0123"), (1, "456"), (1, "7")]


def test_one_is_made_ahead_of_the_caller():
  made = []
  results = batches.prefetch(lambda i: made.append(i) or i, iter(range(4)))
  assert next(results) == 0
  assert list(results) == [1, 2, 3] == made[1:]


def test_errors_of_what_is_made_ahead_reach_the_caller():
  results = batches.prefetch(lambda i: 1 // i, [1, 0, 1])
  assert next(results) == 1
  with pytest.raises(ZeroDivisionError):
    list(results)

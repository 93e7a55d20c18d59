"""One run on clips of several shapes, of which some lack a stream."""

import json
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from ccl_jax.data import media, records
from ccl_jax.data.loader import Loader
from tests import shapes_data
from tests.commands import call
from tests.small_data import FLAGS

NAMES = ("both", "sounds", "silent", "images")
STEPS = 8


@pytest.fixture(scope="module")
def latents(tmp_path_factory):
  return shapes_data.write(tmp_path_factory.mktemp("shapes"))


def list_sources(latents):
  """Enough images for a batch of twenty now and then."""
  weights = {"images": 9}
  return tuple((f"{latents / name}", weights.get(name, 1)) for name in NAMES)


def train(latents, workdir, *flags):
  sources = list_sources(latents)
  return call(
    "train", "--config=configs/ccl.py:size=tiny", f"--workdir={workdir}",
    *FLAGS, f"--config.data.sources={sources!r}",
    f"--config.num_train_steps={STEPS}", "--config.eval.tasks=()",
    "--config.checkpoint.save_interval_steps=4",
    "--config.data.batch_tokens=120", "--config.objective.time_shift=3.0",
    "--config.objective.time_shift_shape=(49,32,32)", *flags,
  )  # fmt: skip


@pytest.fixture(scope="module")
def runs(latents, tmp_path_factory):
  """A run, and one that was stopped in the middle and went on."""
  folder = tmp_path_factory.mktemp("runs")
  whole, resumed = folder / "whole", folder / "resumed"
  status, text = train(latents, whole)
  assert status == 0, text
  assert "49x32x32" in text and "25x16x16" in text and "1x16x16" in text
  shutil.copytree(whole, resumed)
  shutil.rmtree(resumed / "checkpoints" / f"{STEPS}")
  status, text = train(
    latents, resumed, "--config.eval.tasks=('t2v',)",
    "--config.eval.all_shapes=True", "--config.eval.split=train",
  )  # fmt: skip
  assert status == 0 and "from step 4" in text, text
  return whole, resumed


def lines(workdir):
  text = (workdir / "metrics.jsonl").read_text()
  return [json.loads(line) for line in text.splitlines()]


def test_sets_of_all_kinds_are_encoded_in_shapes(latents):
  for name in NAMES[:3]:
    found = [
      records.read_metadata(folder)
      for folder in records.list_buckets(latents / name)
    ]
    assert [(x["frames"], x["size"], x["counts"]) for x in found] == [
      (49, [32, 32], {"train": 3}), (25, [16, 16], {"train": 3})
    ]  # fmt: skip


def test_a_run_has_steps_of_each_shape_and_counts_streams(latents, runs):
  steps = [line for line in lines(runs[0]) if "loss" in line]
  assert len(steps) == STEPS
  assert all(np.isfinite(line["loss"]) for line in steps)
  assert not steps[-1]["skipped"]
  loader = Loader(
    sources=list_sources(latents), batch_size=4, batch_tokens=120,
    count_tokens=lambda shapes: {13: 117, 7: 42, 1: 6}[shapes["video"][0]],
  )  # fmt: skip
  assert {loader.bucket_at(i) for i in range(STEPS)} == {0, 1, 2}
  # A clip of each shape has 13 x 4 + 65, 7 + 35 and 1 + 5 tokens.
  sizes = (1, 2, 20)
  sizes = [sizes[loader.bucket_at(i)] for i in range(STEPS)]
  for line, size in zip(steps, sizes, strict=True):
    trained = [line[f"samples/{s}"] for s in ("video", "audio")]
    assert max(trained) > 0 and sum(trained) <= 2 * size
    assert size < 20 or trained == [20, 0]  # images
  assert sum(line["samples/audio"] for line in steps) > 0
  last = steps[-1]
  assert [last[f"weight/{name}"] for name in NAMES] == [1 / 12] * 3 + [0.75]
  assert all(last[f"epochs/{name}"] > 0 for name in NAMES)
  assert json.loads((runs[0] / "clip.json").read_text())["buckets"] == [
    [49, 32, 32], [25, 16, 16], [1, 16, 16]
  ]  # fmt: skip


def test_a_resumed_run_equals_one_that_never_stopped(runs):
  kept = ("loss", "grad_norm", "samples/video", "samples/audio")
  losses = [
    [[line.get(name) for name in kept] for line in lines(run)] for run in runs
  ]
  assert losses[0] == losses[1]
  states = [
    ocp.StandardCheckpointer().restore(
      run / "checkpoints" / f"{STEPS}" / "default"
    )
    for run in runs
  ]
  leaves = [jax.tree.leaves(state) for state in states]
  assert all(np.array_equal(a, b) for a, b in zip(*leaves, strict=True))


def test_previews_are_of_every_shape(runs):
  folder = runs[1] / "samples" / f"{STEPS}"
  for label, frames, size in (("", 49, 32), ("25x16x16", 25, 16)):
    clip = media.read_clip(folder / label / "t2v_0.mp4", need_audio=False)
    assert clip.video.shape == (frames, size, size, 3), label
    assert (folder / label / "t2v.png").exists()


def test_clips_of_any_trained_shape_are_scored(latents, runs, tmp_path):
  flags = (
    "evaluate", f"--workdir={runs[0]}", f"--data={latents / 'both'}",
    f"--output={tmp_path}", "--splits=train", "--tasks=a2v", "--num=2",
  )  # fmt: skip
  status, text = call(*flags, "--size=16,16", "--seconds=1")
  assert status == 0 and "train, 2 clips" in text, text
  made = list((tmp_path / "train").glob("*_a2v.mp4"))
  assert len(made) == 2
  assert media.read_clip(made[0]).video.shape == (25, 16, 16, 3)
  status, text = call(*flags, "--size=24,16")
  assert status == 2 and "--size=24,16: there are no such clips" in text


def test_clips_of_any_trained_shape_are_sampled(runs, tmp_path):
  status, text = call(
    "sample", f"--workdir={runs[0]}", f"--output={tmp_path}",
    "--prompt=A face.", "--size=16,16", "--seconds=1",
  )  # fmt: skip
  assert status == 0, text
  clip = media.read_clip(tmp_path / "t2av_0.mp4")
  assert clip.video.shape == (25, 16, 16, 3) and len(clip.audio) == 16_000

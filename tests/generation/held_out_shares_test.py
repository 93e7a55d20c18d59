"""Shares of held-out clips: between which ends, and when there are none."""

import json

import numpy as np
import pytest

from ccl_jax.codecs.api import Codecs
from ccl_jax.data import decoding, records
from ccl_jax.data.clip import ClipShape, GeneratedClip
from ccl_jax.data.loader import read_clips
from ccl_jax.generation.eval_config import EvalConfig
from ccl_jax.generation.held_out_shares import open_shares
from tests import small_world
from tests.training import setups

NAMES = [f"held_out/share/a2v/{score}" for score in ("EAC", "onset_F1")]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  """The folders of the clips and of what they were encoded to."""
  return small_world.write(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def plan():
  return setups.make_setup().plan


def settings(world, **other):
  known = {"split": "easy", "tasks": ("a2v", "t2v"), "num_scored": 4}
  return EvalConfig(world=str(world), **known | other)


def test_they_go_from_blind_to_the_ceiling(plan, data):
  world, latents = data
  shares = open_shares(settings(world), plan, latents, NAMES[1])
  codecs = Codecs.load(latents / "codecs")
  shape = ClipShape.from_dict(records.read_metadata(latents))
  clips = read_clips(latents, "easy")
  decoded = decoding.decode_clips(
    {s: clips[s] for s in ("video", "audio")}, codecs, shape
  )
  assert shares("a2v", decoded) == pytest.approx(dict.fromkeys(NAMES, 1.0))
  assert shares("t2v", decoded) == {}
  still = [
    GeneratedClip(x.fps, x.sample_rate, np.zeros_like(x.video), x.audio)
    for x in decoded
  ]
  found = shares("a2v", still)
  assert list(found) == NAMES and max(found.values()) <= 0


def test_what_cannot_be_told_is_an_error_before_training(plan, data, tmp_path):
  world, latents = data
  few = settings(world, split="ball-less")
  message = "no share that checkpoint.keep_best=.*onset_F1.*on 2 clips"
  with pytest.raises(ValueError, match=message):
    open_shares(few, plan, latents, NAMES[1])
  world, latents = small_world.write(tmp_path, channels=1)
  with pytest.raises(ValueError, match=r"no share at all .*blind: EAC"):
    open_shares(settings(world, num_scored=2), plan, latents, "held_out/loss")


def test_clips_of_another_folder_are_an_error(plan, data, tmp_path):
  world, latents = data
  text = (world / "captions.jsonl").read_text()
  (tmp_path / "captions.jsonl").write_text(text.replace("talks", "sings"))
  for file in world.glob("*.mp4"):
    (tmp_path / file.name).write_bytes(file.read_bytes())
  for folder, words in (
    (tmp_path / "none", "expected the folder that"),
    (tmp_path, "'1.mp4' of .* with the prompt 'A .* talks.* is not there"),
  ):
    with pytest.raises(ValueError, match=words):
      open_shares(settings(folder), plan, latents)


def test_other_clips_are_no_world(plan, tmp_path):
  from tests.data import clips

  clips.write_clips(tmp_path, 2, size=(16, 16))
  codecs = clips.codecs()
  examples = [
    clips.example(
      codecs, i, "easy", name=f"{i}.mp4", caption=f'Disc {i}. "Oh!"'
    )
    for i in range(2)
  ]
  latents = tmp_path / "latents"
  clips.write_records(latents, codecs, examples)
  with pytest.raises(ValueError, match="expected square videos"):
    open_shares(settings(tmp_path), plan, latents)
  metadata = records.read_metadata(latents) | {"size": [16, 16]}
  (latents / "metadata.json").write_text(json.dumps(metadata))
  with pytest.raises(ValueError, match="is of no synthetic world"):
    open_shares(settings(tmp_path), plan, latents)

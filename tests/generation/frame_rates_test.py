"""Clips at other rates than 25 fps: made, and read back as inputs."""

import json
import shutil

import numpy as np
import pytest

from ccl_jax.generation import requests
from ccl_jax.generation.pipeline import Pipeline
from tests.runs import RATE, SHAPE


def at(run, folder, fps, frames, per_frame):
  """The run as if it had been trained at another rate."""
  shutil.copytree(run, folder)
  clip = {"fps": fps, "frames": frames, "size": SHAPE.size}
  (folder / "clip.json").write_text(json.dumps(clip))
  config = json.loads((folder / "config.json").read_text())
  config["model"]["audio"]["tokens_per_frame"] = per_frame
  (folder / "config.json").write_text(json.dumps(config))
  return Pipeline.load(folder)


def test_a_result_of_24_fps_is_an_input_again(run, tmp_path):
  """It was refused: its sound was 0.2 s shorter than its picture."""
  pipeline = at(run, tmp_path / "run", 24.0, 193, 125 / 24)
  samples = round(193 / 24 * RATE)
  (made,) = pipeline("t2av", ["A face."], seeds=[1])
  assert (len(made.video), len(made.audio)) == (193, samples)
  file = str(made.save(tmp_path / "made.mp4"))
  for task, given in (("v2a", "video"), ("a2v", "audio")):
    fields = {"prompt": "x", "seed": 0, "name": "x", "task": task, given: file}
    request = requests.make_request(fields)
    inputs = requests.read_inputs(request, pipeline.shape, RATE)
    (again,) = pipeline(
      task, ["x"], **{f"{s}s": [x] for s, x in inputs.items()}
    )
    np.testing.assert_array_equal(getattr(again, given), inputs[given])
    assert (len(again.video), len(again.audio)) == (193, samples)


@pytest.mark.parametrize(
  ("fps", "per_frame", "samples"),
  [(24.0, 5, 49 * 5 * 512), (60.0, 125 / 60, round(193 / 60 * RATE))],
)
def test_the_model_says_how_long_sound_is(
  run, tmp_path, fps, per_frame, samples
):
  """Runs of early versions have a whole number of latents in each frame."""
  pipeline = at(run, tmp_path / "run", fps, 193, per_frame)
  (made,) = pipeline("t2a", ["x"], seeds=[1])
  assert len(made.audio) == samples

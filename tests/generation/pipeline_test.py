"""Generation from Python."""

import dataclasses
import functools
import pathlib
import re

import numpy as np
import pytest

from ccl_jax.data import media
from ccl_jax.diffusion import tasks
from ccl_jax.generation import requests
from ccl_jax.generation.pipeline import Pipeline
from ccl_jax.generation.sampling import AttentionProbe
from tests.runs import RATE, SAMPLES, SHAPE

ROOT = pathlib.Path(__file__).parents[2]


def test_the_readme_s_example_runs(run, tmp_path, monkeypatch):
  """As it stands there, where the demo's run is."""
  blocks = re.findall(
    r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S
  )
  (example,) = [block for block in blocks if "Pipeline.load(" in block]
  (place,) = re.findall(r'Pipeline.load\("([^"]+)"\)', example)
  (tmp_path / place).parent.mkdir(parents=True)
  (tmp_path / place).symlink_to(run)
  monkeypatch.chdir(tmp_path)
  exec(example, {})
  clip = media.read_clip(tmp_path / "clip.mp4")
  assert clip.video.shape == (SHAPE.frames, *SHAPE.size, 3)


def test_the_package_gives_the_pipeline_when_asked():
  import ccl_jax

  assert ccl_jax.Pipeline is Pipeline
  with pytest.raises(AttributeError, match="Pipelin"):
    _ = ccl_jax.Pipelin


def test_given_streams_come_back_with_what_is_made(pipeline, inputs):
  fields = {"prompt": "x", "seed": 0, "name": "x", "task": "v2a"}
  request = requests.make_request(fields | {"video": inputs["video"]})
  frames = requests.read_inputs(request, pipeline.shape, RATE)["video"]
  (made,) = pipeline("v2a", ["x"], videos=[frames], seeds=[3])
  np.testing.assert_array_equal(made.video, frames)
  assert len(made.audio) == SAMPLES and made.mel.shape[1] == 80


def test_attention_is_of_clips_then_steps_then_layers(pipeline):
  """In that order in a batch, and each clip's as if it were alone."""
  steps, found = (0, 1, 2), []
  sampling = dataclasses.replace(pipeline.sampling, num_inference_steps=3)
  items = [
    requests.make_request(
      {"prompt": text, "seed": 3, "name": text, "task": "t2av"}
    )
    for text in ("A face.", "A ball.")
  ]
  make = functools.partial(
    pipeline.generate, sampling=sampling, probe=AttentionProbe(steps, (0,)),
    finish=lambda batch, latents, shares: found.append(shares) or [],
  )  # fmt: skip
  make(items)
  make(items[1:])
  *_, last = found
  for shares in found:
    for x in shares.values():
      assert x.shape[1:3] == (len(steps), 1)
  of_second = {s: [x for each in found[:-1] for x in each[s]][1] for s in last}
  for s, x in last.items():
    np.testing.assert_array_equal(of_second[s], x[0])


def test_a_task_that_was_not_trained_is_warned_of(pipeline, inputs, caplog):
  """The run's objective has no first frames; then one task is taken away."""
  image = media.read_image(inputs["image"], SHAPE.size)
  for task, given, count in (
    ("i2v", {"images": [image]}, 1), ("t2v", {}, 0), ("t2a", {}, 0)
  ):  # fmt: skip
    caplog.clear()
    pipeline(task, ["x"], **given)
    assert len(caplog.messages) == count
  i2av, a2v = map(tasks.inference_task, ("i2av", "a2v"))
  assert "objective.first_frame_probability is 0" in (
    pipeline.describe_untrained(i2av)
  )
  assert not pipeline.describe_untrained(a2v)
  other = dataclasses.replace(
    pipeline,
    objective={
      "first_frame_probability": 0.5, "probabilities": (0.5, 0.0, 0.5, 0.0)
    },
  )  # fmt: skip
  assert "'a2v' (entry 1" in other.describe_untrained(a2v)
  assert "'joint'" in other.describe_untrained(i2av)
  assert "first frames" not in other.describe_untrained(i2av)
  unknown = dataclasses.replace(pipeline, objective={})
  assert not unknown.describe_untrained(i2av)


def test_one_text_is_one_clip(pipeline):
  (one,) = pipeline("t2a", "A face.", seeds=7)
  (other,) = pipeline("t2a", ["A face."], seeds=[7])
  np.testing.assert_array_equal(one.audio, other.audio)
  (counted,) = pipeline("t2a", (x for x in ["A face."]), seeds=np.int64(7))
  np.testing.assert_array_equal(one.audio, counted.audio)
  (counted,) = pipeline("t2a", ["A face."], seeds=np.array([7]))
  np.testing.assert_array_equal(one.audio, counted.audio)
  assert pipeline("t2a", []) == []
  pair = pipeline("t2a", ["A ball.", "A face."], seeds=6)
  np.testing.assert_array_equal(pair[1].audio, one.audio)


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    ({"task": "a2v", "prompts": ["x"]}, "needs audio"),
    ({"task": "t2v", "prompts": ["x"], "audios": []}, "takes no audio"),
    (
      {"task": "a2v", "prompts": ["x"], "audios": [np.zeros(5, "float32")]},
      r"expected \(3200,\)",
    ),
    ({"task": "t2v", "prompts": ["word " * 5000]}, "has 5001 tokens"),
    (
      {"task": "t2v", "prompts": ["x"], "negative": "a " * 99},
      "has 100 tokens",
    ),
  ],
)
def test_wrong_input_is_one_clear_error(pipeline, arguments, words):
  with pytest.raises(ValueError, match=words):
    pipeline(**arguments)

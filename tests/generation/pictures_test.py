"""Clips with a reference picture, of a model that reads one and of another."""

import json

import numpy as np
import pytest
from PIL import Image

from ccl_jax.app.session import Session
from ccl_jax.diffusion import tasks
from ccl_jax.generation import requests, stages
from ccl_jax.generation.pipeline import Pipeline
from tests import runs
from tests.models.icac_test import settings
from tests.sample_test import generate
from tests.training.in_context_test import OBJECTIVE


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
  """The workdir of a model that reads pictures, but was trained on none."""
  model = settings(attention="masked3d", references=True)
  audio = model["audio"] | {"tokens_per_frame": 5}
  return runs.write(
    tmp_path_factory.mktemp("reader") / "run",
    model=model | {"audio": audio},
    sampling={"cache_reference": False, "guidance": "none"},
    objective=OBJECTIVE | {"reference_probability": 0.0},
  )


def write_list(path, inputs, images):
  """One prompt and seed, with each of some images or none."""
  fields = {"prompt": "A face.", "task": "a2v", "seed": 1}
  fields["audio"] = inputs["audio"]
  lines = [
    fields | ({"image": image} if image else {}) | {"name": name}
    for name, image in images.items()
  ]
  path.write_text("\n".join(map(json.dumps, lines)))
  return path


def test_a_picture_is_seen_and_not_the_first_frame(
  reader, inputs, tmp_path, capsys
):
  Image.fromarray(runs.noise(9, frames=1)[0]).save(tmp_path / "other.png")
  images = {
    "one": inputs["image"], "same": inputs["image"], "none": None,
    "other": str(tmp_path / "other.png"),
  }  # fmt: skip
  path, out = write_list(tmp_path / "a.jsonl", inputs, images), tmp_path / "out"
  generate(reader, out, f"--prompts={path}", "--batch=2")
  clips = {name: (out / f"{name}.mp4").read_bytes() for name in images}
  assert clips["one"] == clips["same"]
  assert len({*clips.values()}) == 3
  said = json.loads((out / "one.json").read_text())
  assert said["image"] == inputs["image"]
  assert "reference_probability is 0" in capsys.readouterr().err


def test_a_model_that_reads_none_says_so(run, inputs, tmp_path):
  """And goes on with the other lines."""
  images = {"one": inputs["image"], "none": None}
  path, out = write_list(tmp_path / "a.jsonl", inputs, images), tmp_path / "out"
  with pytest.raises(ValueError, match="reads no reference picture") as caught:
    generate(run, out, f"--prompts={path}", "--guidance=none")
  assert "\n" not in str(caught.value)
  assert [f.name for f in out.glob("*.mp4")] == ["none.mp4"]


def test_only_tasks_without_a_first_frame_have_pictures():
  taken = {n for n, t in tasks.INFERENCE_TASKS.items() if t.optional}
  assert taken == {"a2v", "t2v"}


def test_pictures_of_encoded_clips_are_their_first_latent_frames(reader):
  pipeline = Pipeline.load(reader)
  picture, sound = runs.noise(9, frames=1)[0], runs.hum(1)[: runs.SAMPLES]
  encoded = stages.encode_inputs(pipeline, {"audio": [sound]}).latents
  data = encoded | {
    "video": pipeline.codecs.video.encode(picture[None, None]),
    "text": stages.embed(pipeline, ["A face."]),
    "null_text": stages.embed(pipeline, [""])[0],
  }

  def made(**options):
    items = requests.from_clips(tasks.inference_task("a2v"), data, **options)
    return pipeline.generate(items)[0].video

  asked = pipeline("a2v", "A face.", audios=[sound], images=[picture])[0]
  np.testing.assert_array_equal(made(has_pictures=True), asked.video)
  assert (made() != asked.video).any()


def test_the_page_takes_a_picture_and_has_the_tasks_of_the_model(
  reader, run, inputs, tmp_path
):
  session = Session(Pipeline.load(reader), {}, tmp_path, max_seconds=9.0)
  assert session.pipeline.tasks == ("t2v", "i2v", "a2v")
  assert set(Pipeline.load(run).tasks) == set(tasks.INFERENCE_TASKS)
  fields = {"task": "a2v", "prompt": "A face.", "negative": "", "seed": 0}
  fields |= {name: inputs[name] for name in ("image", "audio", "video")}
  made = [
    session.request(fields | {"image": image}, {"num_inference_steps": 1})
    for image in (inputs["image"], None)
  ]
  assert made[0].clip.read_bytes() != made[1].clip.read_bytes()
  said = ["reference_probability is 0" in x.note for x in made]
  assert said == [True, False]
  with pytest.raises(ValueError, match="takes audio as a condition only"):
    session.request(fields | {"task": "t2a"}, {})

"""One person's request, without the page around it."""

import json

import pytest

from ccl_jax.app.session import Session
from ccl_jax.data import media
from ccl_jax.generation.pipeline import Pipeline
from tests.runs import SAMPLES


@pytest.fixture(scope="module")
def session(run, tmp_path_factory):
  folder = tmp_path_factory.mktemp("results")
  return Session(Pipeline.load(run), {"fps": 25.0}, folder, max_seconds=0.5)


def fields(task, **given):
  return {
    "task": task, "prompt": "A hum.", "negative": "", "seed": 3, "image": None,
    "audio": None, "video": None,
  } | given  # fmt: skip


def test_a_request_is_counted_step_by_step_and_leaves_its_files(session):
  """The upload of a task chosen before is passed over."""
  told = []
  result = session.request(
    fields("t2a", audio="left/behind.wav"),
    {"num_inference_steps": 3, "audio_guidance_scale": 1.5},
    lambda *progress: told.append(progress),
    attention=True,  # of which one stream alone has none
  )
  assert session.steps_done == 3  # every step, and each once
  assert {of for _, of in told} == {3}
  assert [done for done, _ in told] == sorted(done for done, _ in told)
  clip = media.read_clip(result.clip, need_video=False)
  assert result.clip.name == "t2a_3.wav" and len(clip.audio) == SAMPLES
  assert result.mel.shape == (160, 640, 3) and result.note == ""
  assert result.attention is None and len(result.files) == 2
  said = json.loads(result.files[1].read_text())
  assert said["sampling"]["audio_guidance_scale"] == 1.5 and said["fps"] == 25.0
  assert said["audio"] is None


def test_attention_is_shown_between_two_streams(session, inputs):
  result = session.request(
    fields("v2a", video=inputs["video"]),
    {"num_inference_steps": 1, "guidance": "none"},
    attention=True,
  )
  assert [file.name for file in result.files] == [
    "v2a_3.mp4", "v2a_3.json", "v2a_3.attention.json", "v2a_3.attention.mp4",
    "v2a_3.attention.png",
  ]  # fmt: skip
  assert result.attention == result.files[-1]
  assert result.mel.shape == (160, 640, 3)
  said = json.loads(result.files[1].read_text())
  assert said["attention"] == {"steps": [0], "layers": [0, 1]}
  assert said["video"] == "silent.mp4"


def test_only_the_last_results_stay(session):
  made = [
    session.request(fields("t2a"), {"num_inference_steps": 3}) for _ in range(9)
  ]
  assert not made[0].clip.samefile(made[7].clip)
  assert made[0].clip == made[8].clip
  assert len(list(session.folder.rglob("*.wav"))) == 8


@pytest.mark.parametrize(
  ("task", "given", "sampling", "words"),
  [
    ("a2v", {}, {}, "needs audio"),
    ("a2v", {"audio": "long"}, {}, "hum.wav has 1.0 s, no more than 0.5 s"),
    ("v2a", {"video": "rubbish"}, {}, "^rubbish.mp4: Invalid data"),
    ("t2a", {"seed": -1}, {}, "seed -1"),
    ("t2a", {}, {"num_inference_steps": 0}, "num_steps=0"),
    ("t2a", {}, {"audio_guidance_scale": -1.0}, "audio_guidance_scale is -1"),
    ("t2a", {"prompt": "word " * 5000}, {}, "5001 tokens"),
  ],
)
def test_what_is_wrong_is_said_without_where_uploads_lie(
  session,
  inputs,
  tmp_path,
  task,
  given,
  sampling,
  words,
):
  rubbish = tmp_path / "rubbish.mp4"
  rubbish.write_text("no clip")
  places = {"long": inputs["audio"], "rubbish": str(rubbish)}
  given = {name: places.get(value, value) for name, value in given.items()}
  with pytest.raises(ValueError, match=words):
    session.request(fields(task, **given), sampling)

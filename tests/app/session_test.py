"""One person's request, without the page around it."""

import json
import os
import pathlib
import threading

import numpy as np
import pytest
import soundfile
from PIL import Image

from ccl_jax.app.session import Session, Stopped, hide_paths
from ccl_jax.data import media
from ccl_jax.generation.pipeline import Pipeline
from tests.data import flash, opening_test
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
  stages, steps, of = zip(*told, strict=True)
  assert set(of) == {3} and list(steps) == sorted(steps)
  assert stages[0] == "Compiling"
  assert all((stage == "Compiling") == (not n) for stage, n, _ in told)
  told.clear()
  session.request(
    fields("t2a"),
    {"num_inference_steps": 3, "audio_guidance_scale": 1.5},
    lambda *progress: told.append(progress),
  )
  assert told[0] == ("Reading", 0, 3)
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
    ("v2a", {"video": "text"}, {}, "^text.mp4: "),
    ("i2v", {"image": "rubbish"}, {}, "^rubbish.mp4: "),
    ("t2a", {"seed": -1}, {}, "seed -1"),
    ("t2a", {"seed": None}, {}, "^The seed is empty"),
    ("t2a", {"prompt": ""}, {}, "^The prompt is empty"),
    ("t2a", {"prompt": None, "negative": None}, {}, "^The prompt is empty"),
    ("t2a", {"prompt": " \n"}, {}, "^The prompt is empty"),
    ("t2a", {"prompt": "x" * 4001}, {}, "^The prompt has 4,001 characters"),
    ("t2a", {"negative": "x" * 4001}, {}, "^The negative has 4,001 characters"),
    ("t2a", {}, {"num_inference_steps": None}, "^Num inference steps is empty"),
    ("t2a", {}, {"num_inference_steps": 0}, "num_inference_steps=0"),
    ("t2a", {}, {"audio_guidance_scale": -1.0}, "audio_guidance_scale=-1"),
    ("t2a", {"prompt": "word " * 50}, {}, "51 tokens"),
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
  text = tmp_path / "a folder" / "text.mp4"
  text.parent.mkdir()
  text.write_bytes(b"")
  places = {
    "long": inputs["audio"], "rubbish": str(rubbish), "text": str(text)
  }  # fmt: skip
  given = {name: places.get(value, value) for name, value in given.items()}
  with pytest.raises(ValueError, match=words) as error:
    session.request(fields(task, **given), sampling)
  assert "\n" not in str(error.value) and str(tmp_path) not in str(error.value)


def write_image(path, mode="RGB", **kwargs):
  image = Image.fromarray(flash.picture())
  image.convert(mode).save(path, **kwargs)


def write_sound(path, values, rate=16_000, subtype="PCM_16"):
  soundfile.write(path, values, rate, subtype=subtype)


# Name of an upload -> (the task that takes it, what writes it, what is said).
REFUSED = {
  "empty.wav": ("a2v", lambda p: p.touch(), "is empty"),
  "text.wav": ("a2v", lambda p: p.write_text("a hum"), "Invalid data"),
  "list.wav": (
    "a2v",
    lambda p: p.write_text(f"ffconcat version 1.0\nfile '{p.parent}/x'\n"),
    "is a list of other files",
  ),
  "list.mp4": (
    "v2a",
    lambda p: p.write_text(f"#EXTM3U\n#EXTINF:2,\n{p.parent}/x\n"),
    "Invalid data",
  ),
  "nan.wav": (
    "a2v",
    lambda p: write_sound(p, np.full(8000, np.nan), subtype="FLOAT"),
    "sound reaches nan",
  ),
  "short.wav": ("a2v", lambda p: write_sound(p, np.zeros(80)), "is too short"),
  "pipe.mp4": ("v2a", os.mkfifo, "is not a file"),
  "folder.mp4": ("v2a", pathlib.Path.mkdir, "is not a file"),
  "picture.mp4": (
    "v2a",
    lambda p: write_image(p, format="PNG"),
    "of a kind that is not read",
  ),
  "text.png": ("i2v", lambda p: p.write_text("<svg/>"), "is not an image"),
  "pipe.png": ("i2v", os.mkfifo, "is not a file"),
  "huge.png": (
    "i2v",
    lambda p: p.write_bytes(opening_test.png(30_000, 30_000, rows=9)),
    "megapixels",
  ),
  "cut.png": (
    "i2v",
    lambda p: p.write_bytes(opening_test.png(64, 64)[:50]),
    "runcated",
  ),
  "fractions.tif": ("i2v", lambda p: write_image(p, "F"), "8 or 16 bits"),
}
TAKEN = {
  "large.png": lambda p: write_image(p),
  "print.jpg": lambda p: write_image(p, "CMYK"),
  "dot.png": lambda p: Image.new("RGB", (1, 1), (9, 200, 9)).save(p),
  "grey.png": lambda p: Image.fromarray(np.zeros((9, 9), np.uint16)).save(p),
  "film.webp": lambda p: write_image(
    p, save_all=True, append_images=[Image.new("RGB", (128, 96))]
  ),
  "film.gif": lambda p: write_image(
    p, save_all=True, append_images=[Image.new("RGB", (128, 96))]
  ),
}
KINDS = {"a2v": "audio", "v2a": "video", "i2v": "image"}


@pytest.mark.parametrize("name", REFUSED)
def test_odd_uploads_are_named_in_one_line(session, tmp_path, name):
  task, write, words = REFUSED[name]
  path = tmp_path / "a folder" / name
  path.parent.mkdir()
  write(path)
  with pytest.raises(ValueError, match=words) as error:
    session.request(fields(task, **{KINDS[task]: str(path)}), {})
  text = str(error.value)
  assert text.startswith(f"{name}: ") and "\n" not in text
  assert str(tmp_path) not in text and "a folder" not in text


def test_images_of_many_kinds_begin_a_clip(session, tmp_path):
  for name, write in TAKEN.items():
    write(tmp_path / name)
    result = session.request(
      fields("i2v", image=str(tmp_path / name)),
      {"num_inference_steps": 1, "guidance": "none"},
    )
    assert result.clip.name == "i2v_3.mp4" and result.clip.exists()
    assert json.loads(result.files[1].read_text())["image"] == name


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ("'/home/a/run/codecs' is not there", "'codecs' is not there"),
    ("no '/srv/a b/c d/u x.wav' here", "no 'u x.wav' here"),
    ("and/or 1/2 gs://b/c", "and/or 1/2 gs://b/c"),
    ("in /tmp/x/y.mp4, /z", "in y.mp4, /z"),
  ],
)
def test_paths_of_the_server_are_hidden(text, expected):
  assert hide_paths(text, {}) == expected


def test_a_visitor_stops_the_own_request_and_no_other(session):
  """At the next step; then the next request is made as ever."""
  settings = {"num_inference_steps": 30, "guidance": "none"}

  def stop_by(visitor):
    return lambda stage, done, of: session.stop(visitor)

  with pytest.raises(Stopped):
    session.request(fields("t2a"), settings, stop_by("me"), owner="me")
  assert session.steps_done < 30  # none, as it is told before the first
  result = session.request(fields("t2a"), settings, stop_by("you"), owner="me")
  assert session.steps_done == 30 and result.clip.exists()
  session.stop("me")  # Nothing runs: nothing to stop.
  session.request(fields("t2a"), settings, owner="me")


def test_closing_ends_what_runs_and_refuses_what_waits(session, tmp_path):
  """By another thread, as by the one that got the signal."""
  settings = {"num_inference_steps": 30, "guidance": "none"}
  closing = Session(session.pipeline, {}, tmp_path)
  closer = threading.Thread(target=closing.close)

  def close(stage, done, of):
    if closer.ident is None:
      closer.start()

  with pytest.raises(Stopped):
    closing.request(fields("t2a"), settings, close)
  closer.join(10.0)
  assert not closer.is_alive() and closing.steps_done < 30
  with pytest.raises(Stopped, match="has ended"):
    closing.request(fields("t2a"), settings)
  assert not list(tmp_path.rglob("*.wav"))

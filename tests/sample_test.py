"""The command that generates."""

import json

import pytest
from absl import flags
from absl.testing import flagsaver

from ccl_jax import sample
from ccl_jax.data import media
from ccl_jax.diffusion import tasks
from tests import commands
from tests.runs import SAMPLES, SHAPE

GIVEN = (24, 32)  # the size of `inputs["video"]`


def generate(run, out, *arguments):
  """`sample.generate` with flags as they would be on the command line."""
  with flagsaver.flagsaver():
    flags.FLAGS(["sample", f"--workdir={run}", f"--output={out}", *arguments])
    sample.generate()


def test_every_task_of_a_list(run, inputs, tmp_path):
  lines = [
    {"prompt": "A face.", "task": name, "name": name}
    | {kind: inputs[kind] for kind in task.inputs}
    for name, task in tasks.INFERENCE_TASKS.items()
  ]
  path = tmp_path / "list.jsonl"
  path.write_text("\n".join(map(json.dumps, lines)))
  out = tmp_path / "out"
  # One pass of the model is compiled faster than two.
  generate(run, out, f"--prompts={path}", "--guidance=none", "--solver=euler")
  for task, plan in tasks.INFERENCE_TASKS.items():
    said = json.loads((out / f"{task}.json").read_text())
    assert said["task"] == task and said["sampling"]["solver"] == "euler"
    has_video = "video" in plan.streams
    has_audio = "audio" in plan.streams
    clip = media.read_clip(
      out / f"{task}.{'mp4' if has_video else 'wav'}",
      need_video=has_video,
      need_audio=has_audio,
    )
    if has_video:
      # A given picture keeps its size.
      size = GIVEN if "video" in plan.inputs else SHAPE.size
      assert clip.video.shape == (SHAPE.frames, *size, 3)
    if has_audio:
      assert len(clip.audio) == SAMPLES
    else:
      assert clip.audio is None


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    (["--task=t2x", "--prompt=x"], "t2av"),
    (["--task=a2v", "--prompt=x"], "needs audio"),
    (["--prompt=x", "--image=a.png"], "takes no image"),
    (["--task=i2v", "--prompt=x", "--image=README.md"], "README.md"),
    (["--task=t2av"], "--prompt or --prompts"),
    (["--prompts=nowhere.jsonl"], "nowhere.jsonl"),
    (["--prompt=x", "--step=9"], "No checkpoint of step 9"),
    (["--prompt=x", "--guidance=cfg"], "ucg2"),
    (["--prompt=x", "--num_inference_steps=0"], "num_inference_steps=0"),
    (["--prompt=x", "--video_guidance_scale=-1"], "video_guidance_scale=-1"),
    (["--prompt=x", "--seed=-1"], "seed -1"),
    (["--prompt=x", "--fsdp=3"], "does not fit"),
    (["--prompt=x", "--workdir=nowhere"], "not a training workdir"),
  ],
)
def test_wrong_input_is_one_clear_error(run, tmp_path, arguments, words):
  with pytest.raises(ValueError, match=words) as caught:
    generate(run, tmp_path / "out", *arguments)
  assert "\n" not in str(caught.value)
  assert not (tmp_path / "out").exists()


def test_files_depend_on_seeds_alone(run, inputs, tmp_path):
  """Byte for byte: in batches of 1, 2, 3, in any order, after a restart."""
  lines = [
    {"prompt": f"Face {i}.", "task": task, "seed": i, "name": f"{task}_{i}"}
    | {kind: inputs[kind] for kind in tasks.inference_task(task).inputs}
    for task in ("t2av", "t2a", "a2v")
    for i in range(3)
  ]

  def files(name, lines, batch):
    path, out = tmp_path / f"{name}.jsonl", tmp_path / name
    path.write_text("\n".join(map(json.dumps, lines)))
    generate(
      run, out, f"--prompts={path}", f"--batch={batch}", "--guidance=none"
    )
    return {f.name: f.read_bytes() for f in out.iterdir()}

  one = files("one", lines, 1)
  assert len(one) == 2 * len(lines)
  assert one["t2a_0.wav"] != one["t2a_1.wav"]
  assert files("two", lines, 2) == one
  assert files("reversed", lines[::-1], 3) == one
  for name in ("t2av_1", "t2a_2", "a2v_0"):
    (tmp_path / "two" / f"{name}.json").unlink()
  assert files("two", lines, 3) == one
  alone = files("alone", lines[4:5], 3)
  assert alone.items() <= one.items() and len(alone) == 2


@pytest.mark.parametrize(
  ("changed", "words"),
  [
    ({"prompt": "B."}, "prompt was 'A.', now it is 'B.': choose another --out"),
    ({"negative": "No."}, "negative was '', now it is 'No.'"),
    ({"audio": "b.wav"}, "audio was 'a.wav', now it is 'b.wav'"),
    ({}, "not a training workdir"),  # the same goes on
    ({"seed": 1}, "not a training workdir"),
  ],
)
def test_a_result_of_another_prompt_is_not_replaced(tmp_path, changed, words):
  old = {"prompt": "A.", "negative": "", "audio": "a.wav", "seed": 0}
  said = json.dumps(old | {"task": "a2v", "image": None, "sampling": {}})
  (tmp_path / "a2v_0.json").write_text(said)
  given = [f"--{key}={value}" for key, value in (old | changed).items()]
  with pytest.raises(ValueError, match=words) as caught:
    generate("nowhere", tmp_path, "--task=a2v", *given)
  assert "\n" not in str(caught.value)
  assert (tmp_path / "a2v_0.json").read_text() == said


PROMPTS = ["One.", "Two.", "Three.", "", "Five."]


def test_processes_share_a_list(run, tmp_path):
  """Two of them; each line is made once, and a bad one fails both."""
  path, out = tmp_path / "list.jsonl", tmp_path / "out"
  lines = [json.dumps({"prompt": text, "task": "t2a"}) for text in PROMPTS]
  path.write_text("\n".join([*lines, "nonsense"]))
  flags = (f"--workdir={run}", f"--output={out}", f"--prompts={path}")
  both = commands.start_two("-m", "ccl_jax.sample", *flags, devices=2)
  ended = [commands.finish(process) for process in both]
  for status, text in ended:
    assert status == 2, text
    last = text.strip().splitlines()[-1]
    assert last.startswith(f"error: {path} line 6: not JSON"), text
  assert "Peak memory" in ended[0][1]
  for i in range(len(PROMPTS)):
    said = json.loads((out / f"t2a_{i:04d}.json").read_text())
    assert (said["prompt"], said["seed"]) == (PROMPTS[i], i)
    assert (out / f"t2a_{i:04d}.wav").exists()


def test_attention_maps_lie_beside_the_results(run, tmp_path):
  out = tmp_path / "out"
  options = ["--prompt=A face.", "--guidance=none", "--solver=euler"]
  generate(run, out, *options)
  plain = (out / "t2av_0.mp4").read_bytes()
  generate(run, out, *options, "--attention_maps", "--attention_layer=1")
  assert (out / "t2av_0.mp4").read_bytes() == plain
  found = json.loads((out / "t2av_0.attention.json").read_text())
  assert [(each["step"], each["layer"]) for each in found] == [(0, 1), (1, 1)]
  assert all(0 < each[s] < 1 for each in found for s in ("video", "audio"))
  shown = media.read_clip(out / "t2av_0.attention.mp4")
  assert shown.video.shape == (SHAPE.frames, *SHAPE.size, 3)
  assert (out / "t2av_0.attention.png").stat().st_size > 1000
  for flag in ("--attention_layer=9", "--attention_step=500"):
    with pytest.raises(ValueError, match=f"^{flag}: expected 0 to "):
      generate(run, out, *options, "--attention_maps", flag)

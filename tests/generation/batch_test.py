"""Items become files, whatever stops them, on however many devices."""

import dataclasses
import json

import numpy as np
import pytest
from etils import epath

from ccl_jax.data import media
from ccl_jax.generation import requests
from ccl_jax.generation.batch import BatchGenerator
from ccl_jax.generation.pipeline import Pipeline, group_requests
from tests.runs import RATE, SHAPE, WORDS, hum, noise

ABOUT = {"checkpoint": 4}


def items(num, task="t2v", **fields):
  return [
    requests.make_request(
      {"prompt": f"Face {i}.", "task": task, "seed": i, "name": f"{task}/{i}"}
      | fields,
      where=f"line {i}",
    )
    for i in range(num)
  ]


def make(pipeline, output, batch_size=2):
  said = []
  generator = BatchGenerator(
    pipeline, pipeline.sampling, epath.Path(output), batch_size, ABOUT,
    said.append, False,
  )  # fmt: skip
  return generator, said


def sampled(pipeline, batch_size):
  """Latents of five prompts, `batch_size` at once."""
  return np.stack(
    pipeline.generate(
      items(5),
      batch_size=batch_size,
      finish=lambda batch, latents, shares: list(latents["video"]),
    )
  )


def test_a_seed_means_the_same_in_every_batch_and_on_every_mesh(run, pipeline):
  """On a mesh up to rounding, as that is another program."""
  alone = sampled(pipeline, 1)
  assert np.abs(alone[0] - alone[1]).max() > 0.5
  np.testing.assert_array_equal(sampled(pipeline, 2), alone)
  meshed = Pipeline.load(run, mesh={"data": -1, "fsdp": 1})
  assert meshed.plan.layout.batch_shards() == 8
  np.testing.assert_allclose(sampled(meshed, 5), alone, atol=2e-5)


@pytest.mark.parametrize(
  ("num", "batch", "expected"),
  [(5, 8, [5]), (8, 8, [8]), (9, 8, [5, 4]), (7, 3, [3, 3, 1]), (1, 1, [1])],
)
def test_batches_of_a_task_are_filled_up_to_one_size(num, batch, expected):
  rounds = list(group_requests(items(num), batch, offload=False))
  assert [len(members) for members, _ in rounds] == expected
  assert {rows for _, rows in rounds} == {expected[0]}


def test_what_a_result_says_can_be_compared(pipeline, tmp_path):
  generator, _ = make(pipeline, tmp_path)
  generator = dataclasses.replace(generator, about={"size": (1, 2)})
  said = generator.metadata(items(1)[0])
  assert said == json.loads(json.dumps(said))
  assert said["sampling"]["num_inference_steps"] == 2 and said["size"] == [1, 2]
  assert "where" not in said


def test_what_is_done_is_not_made_again(pipeline, tmp_path, monkeypatch):
  """Nor after an interruption; a result has its JSON only when it is whole."""
  generator, _ = make(pipeline, tmp_path)
  real = media.writing_mp4
  begun = []

  def dies(path, *rest):
    begun.append(path)
    if len(begun) == 4:
      raise KeyboardInterrupt
    return real(path, *rest)

  monkeypatch.setattr(media, "writing_mp4", dies)
  with pytest.raises(KeyboardInterrupt):
    generator.run(items(5))
  assert len(list(tmp_path.rglob("*.json"))) == 3
  assert not list(tmp_path.rglob("*partial*"))
  assert generator.run(items(5)) == []
  assert len(list(tmp_path.rglob("*.json"))) == 5
  assert len(begun) == 4 + 2
  times = {f: f.stat().st_mtime_ns for f in tmp_path.rglob("*.mp4")}
  changed = [*items(4), *items(5, prompt="Another.")[4:]]
  assert generator.run(changed) == []
  assert len(begun) == 4 + 2 + 1
  again = [f.name for f in times if f.stat().st_mtime_ns != times[f]]
  assert again == ["4.mp4"]
  said = json.loads((tmp_path / "t2v" / "4.json").read_text())
  assert said["prompt"] == "Another." and said["checkpoint"] == 4


def test_what_cannot_be_made_is_told_and_the_others_go_on(
  pipeline,
  inputs,
  tmp_path,
):
  sounds = items(3, "a2v", audio=inputs["audio"])
  lost = items(4, "a2v", audio="absent.wav")[3:]
  long = items(1, prompt="word " * 5000)
  generator, said = make(pipeline, tmp_path / "out")
  problems = generator.run([sounds[0], *lost, *sounds[1:], *long])
  assert len(problems) == 2 and set(problems) < set(said)
  assert problems[0] == "line 3: absent.wav: No such file or directory"
  assert f"has 5001 tokens; this model reads {WORDS}" in problems[1]
  assert "only the first 0.20 s of" in said[-1]
  assert said[-1].endswith("(inputs that are longer: 3)")
  files = sorted(f.name for f in (tmp_path / "out").rglob("*.*"))
  assert files == [f"{i}.{kind}" for i in range(3) for kind in ("json", "mp4")]
  # The sound is the given one, to AAC's precision.
  made = media.read_clip(tmp_path / "out" / "a2v" / "1.mp4")
  given = requests.read_inputs(sounds[1], SHAPE, RATE)["audio"]
  inner = slice(800, -800)
  assert np.corrcoef(made.audio[inner], given[inner])[0, 1] > 0.9


def test_a_result_does_not_replace_its_own_input(pipeline, inputs, tmp_path):
  (tmp_path / "a2v").mkdir()
  own = tmp_path / "a2v" / "0.mp4"
  own.write_bytes(b"mine")
  generator, _ = make(pipeline, tmp_path)
  (problem,) = generator.run(items(1, "a2v", audio=str(own)))
  assert problem.startswith("line 0: ") and "is the input" in problem
  assert own.read_bytes() == b"mine"


def test_a_result_without_its_given_stream_is_not_left(
  pipeline, inputs, tmp_path, monkeypatch
):
  def fail(*arguments):
    raise media.ClipError("cannot be cut")

  monkeypatch.setattr("ccl_jax.data.muxing.restore_stream", fail)
  generator, _ = make(pipeline, tmp_path / "out")
  problems = generator.run(items(2, "a2v", audio=inputs["audio"]))
  assert len(problems) == 2 and "cannot be cut" in problems[0]
  assert not [x for x in (tmp_path / "out").rglob("*") if x.is_file()]


def test_given_streams_leave_as_they_came(pipeline, inputs, tmp_path):
  """Sound in any case, pictures if they are as long as the clip."""
  frames = noise(frames=SHAPE.frames, size=(48, 64))
  media.write_mp4(tmp_path / "film.mp4", frames, SHAPE.fps)
  media.write_mp4(tmp_path / "sound.mp4", frames, SHAPE.fps, hum(0.5))
  given = {"video": "film.mp4", "audio": "sound.mp4"}
  generator, _ = make(pipeline, tmp_path / "out")
  requested = [
    *items(1, "v2a", video=str(tmp_path / "film.mp4")),
    *items(1, "a2v", audio=str(tmp_path / "sound.mp4")),
  ]
  assert generator.run(requested) == []
  for task, kind in (("v2a", "video"), ("a2v", "audio")):
    made, source = (
      packets(path, kind)
      for path in (tmp_path / "out" / task / "0.mp4", tmp_path / given[kind])
    )
    assert made and made == source[: len(made)]
    assert len(made) < len(source) or kind == "video"
    clip = media.read_clip(tmp_path / "out" / task / "0.mp4")
    assert len(clip.video) == SHAPE.frames
    assert not list(tmp_path.rglob("*partial*"))


def packets(path, kind):
  with media.av.open(str(path)) as container:
    stream = getattr(container.streams, kind)[0]
    return [bytes(packet) for packet in container.demux(stream) if packet.size]


@pytest.mark.parametrize("mesh", [None, {"data": -1, "fsdp": 1}])
def test_what_cannot_be_written_does_not_touch_the_others(run, tmp_path, mesh):
  """Also where all of them are sampled and written as one batch."""
  tmp_path = tmp_path / "out"
  good, first, second, deep, foreign = items(5)
  first, second, deep = (
    dataclasses.replace(request, name=name)
    for request, name in (
      (first, "a"), (second, "a.mp4/b"), (deep, "d/" * 2500 + "d")
    )
  )  # fmt: skip
  (tmp_path / "t2v").mkdir(parents=True)
  (tmp_path / "t2v" / "4.json").write_text("not JSON")
  (tmp_path / "t2v" / "4.mp4").write_text("not a clip")
  pipeline = Pipeline.load(run, mesh=mesh)
  generator, said = make(pipeline, tmp_path)
  problems = generator.run([good, first, second, deep, foreign])
  assert problems == said and len(problems) == 2
  told = sorted(problem.partition(":")[0] for problem in problems)
  assert told == ["line 2", "line 3"]
  made = sorted(f.relative_to(tmp_path).as_posix() for f in walk(tmp_path))
  assert made == [
    f"{name}.{kind}"
    for name in ("a", "t2v/0", "t2v/4")
    for kind in ("json", "mp4")
  ]
  assert json.loads((tmp_path / "t2v" / "4.json").read_text())["seed"] == 4


def walk(folder):
  return [path for path in folder.rglob("*") if path.is_file()]


def test_offload_makes_the_same_and_keeps_nothing(run, pipeline, tmp_path):
  offloaded = Pipeline.load(run, offload=True)
  assert offloaded.params is None
  for each in (pipeline, offloaded):
    generator, _ = make(each, tmp_path / str(each.offload))
    assert generator.run(items(3)) == []
  assert offloaded.params is None
  for i in range(3):
    one, other = (
      media.read_clip(
        tmp_path / kind / "t2v" / f"{i}.mp4", need_audio=False
      ).video
      for kind in ("True", "False")
    )
    np.testing.assert_array_equal(one, other)
    assert one.shape == (SHAPE.frames, *SHAPE.size, 3)


def test_offload_reads_each_part_once_in_64_clips():
  groups = group_requests(items(150), 8, offload=True)
  sizes = [len(members) for members, _ in groups]
  assert sizes == [64, 64, 22]

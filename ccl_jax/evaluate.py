"""Scores a run on held-out clips of the synthetic world:

    python -m ccl_jax.evaluate --workdir=RUN --data=LATENTS --clips=WORLD \
        --output=DIR [--tasks=a2v,v2a,t2av] [--splits=easy,hard] [--num=32] \
        [--guidance=text,ucg2] [--seeds=3] [--size=64,64] [--seconds=1.96]

Prints, per split, scores of `metrics.synchworld` of clips generated from
held-out prompts (and sound, or video), beside those of the ground truth (the
clips themselves), the codecs' ceiling (the clips encoded and decoded), the best
blind generators (`metrics.blind`: they read the prompt but not the sound or the
video, through the same codecs) and shuffled clips (the sound of another clip
with as many words). The first table is the headline: which share of the way
from blind to ceiling each row goes. All is measured on decoded pixels and
sound.

Guidance rules of --guidance are compared on the same prompts and noise: each
has a row, and all but the first another one with its gain on the first. With
--seeds every clip is generated that often; intervals are those of drawing other
prompts, each with all its clips.

Writes results.json (both tables, and each clip's totals and counts), table.md,
the first seed's clips as mp4, and sheet.png.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tqdm
from absl import flags
from etils import epath

from ccl_jax import command
from ccl_jax.array_types import STREAMS
from ccl_jax.codecs.mel import log_mel
from ccl_jax.data import media, records
from ccl_jax.data.clip import ClipShape, FileNames, GeneratedClip
from ccl_jax.data.loader import read_clips
from ccl_jax.data.synthetic.render import render_video
from ccl_jax.data.synthetic.sound import render_sound
from ccl_jax.diffusion import guidance, tasks
from ccl_jax.files import make_folder, replacing, write_json
from ccl_jax.generation import requests, stages
from ccl_jax.generation.components import choose_shape
from ccl_jax.generation.pipeline import Pipeline
from ccl_jax.metrics import blind, bootstrap, contact_sheet, synchworld, tables

WORKDIR = flags.DEFINE_string(
  "workdir", None, "Workdir of the training run to score."
)
DATA = flags.DEFINE_string("data", None, "Folder of encoded held-out clips.")
SHAPE = command.define_shape("clips of the data")
CLIPS = flags.DEFINE_string(
  "clips", None, "Folder of the same clips before encoding, for ground truth."
)
OUTPUT = flags.DEFINE_string("output", None, "Folder for the results.")
TASKS = flags.DEFINE_list(
  "tasks", ["a2v", "v2a", "t2av"], "Tasks to score, separated by commas."
)
SPLITS = flags.DEFINE_list(
  "splits", ["easy", "hard"], "Splits of the data, separated by commas."
)
NUM = flags.DEFINE_integer(
  "num", 32, "Clips of each split, at most.", lower_bound=2
)
STEP = command.define_step()
GUIDANCE = flags.DEFINE_list(
  "guidance", [], "Guidance rules to compare; the run's own if unset."
)
SEEDS = flags.DEFINE_integer(
  "seeds", 1, "How often each clip is generated.", lower_bound=1
)
SHOWN = 3  # clips of each setting and split in sheet.png

# (task,), or (task, guidance rule).
Setting = tuple[str, ...]
# Name of what to compare with -> measurements of its clips.
References = dict[str, list[synchworld.ClipScores]]


def evaluate() -> None:
  """Generates, saves and scores the clips of every split and setting.

  Raises:
    ValueError: a flag names something that does not exist.
  """
  settings = list_settings(TASKS.value, GUIDANCE.value)
  output = make_folder(OUTPUT.value)
  data, shape = choose_data(DATA.value, **SHAPE.read())
  pipeline = Pipeline.load(
    WORKDIR.value, STEP.value, size=shape.size, seconds=shape.seconds
  )
  results, texts, strips = {}, [], []
  for split in SPLITS.value:
    clips = read_clips(data, split, NUM.value)
    references, measured = measure_references(clips, pipeline), {}
    for setting in tqdm.tqdm(settings, desc=f"sample {split}", unit="row"):
      made, measured[setting] = generate(pipeline, clips, *setting)
      save_clips(output / split, setting, clips["name"], made)
      strips += [
        (f"{split} {' '.join(setting)}: {text}", x.video, x.mel)
        for text, x in zip(clips["caption"], made[:SHOWN], strict=False)
      ]
    results[split] = {
      "shares": share_settings(measured, references),
      "scores": score_references(references) | score_settings(measured),
      "clips": references | {" ".join(s): x for s, x in measured.items()},
    }
    title = f"{split}, {len(clips['name'])} clips, step {pipeline.step}"
    shares, scores = results[split]["shares"], results[split]["scores"]
    texts.append(tables.report(title, shares, "Scores", scores))
  report = "\n".join(texts)
  print(report)
  with replacing(output / "table.md") as partial:
    partial.write_text(report)
  write_json(output / "results.json", results)
  contact_sheet.save_png(
    output / "sheet.png", contact_sheet.contact_sheet(strips)
  )
  print(f"Clips in {output}, overview in {output / 'sheet.png'}")


def choose_data(
  path: epath.PathLike, size: Sequence[int] = (), seconds: float | None = None
) -> tuple[epath.Path, ClipShape]:
  """Returns the data set of clips of a shape, and the shape.

  Args:
    path: of a data set of one shape or several; the first that fits is taken.
    size, seconds: as of `choose_shape`.

  Raises:
    ValueError: no data set, no clips of this shape, or some that are not square
      as those of the synthetic world are.
  """
  folders = {
    ClipShape.from_dict(records.read_metadata(folder)): folder
    for folder in records.list_buckets(path)
  }
  shape = choose_shape(list(folders), size, seconds)
  if shape.size[0] != shape.size[1]:
    raise ValueError(
      f"'{folders[shape]}' has clips of {shape} (frames x y x x): the synthetic"
      " world's are square. Choose others by --size and --seconds."
    )
  return folders[shape], shape


def list_settings(names: Sequence[str], rules: Sequence[str]) -> list[Setting]:
  """Returns every task, with every guidance rule if any are named.

  Raises:
    ValueError: an unknown task or rule.
  """
  for name in names:
    tasks.inference_task(name)
  for rule in rules:
    guidance.rule(rule)
  return list(itertools.product(*filter(None, (names, rules))))


def measure_references(
  clips: Mapping[str, Any], pipeline: Pipeline
) -> References:
  """Measures ground truth, ceiling, blind generators and shuffled clips."""
  prompts, found = clips["caption"], {}
  if CLIPS.value:
    originals = read_originals(clips["name"], pipeline)
    found["ground truth"] = measure(prompts, originals)
  decoded = stages.decode(pipeline, {s: clips[s] for s in STREAMS})
  videos = [x.video for x in decoded]
  mels = [log_mel(x.audio[None])[0] for x in decoded]

  def score(videos, mels):
    rows = zip(prompts, videos, mels, strict=True)
    return [synchworld.measure(*row, pipeline.shape.fps) for row in rows]

  found["codec ceiling"] = score(videos, mels)
  blind_a2v, blind_v2a = [], []
  for strategy in blind.STRATEGIES:
    made = make_blind(prompts, strategy, pipeline)
    blind_a2v.append(score(made[0], mels))
    blind_v2a.append(score(videos, made[1]))
  found["blind a2v"] = bootstrap.best(blind_a2v)
  found["blind v2a"] = bootstrap.best(blind_v2a)
  found["blind"] = bootstrap.best(blind_a2v + blind_v2a)
  others = synchworld.shuffle(prompts)
  found["shuffled"] = score(videos, [mels[i] for i in others])
  return found


def make_blind(
  prompts: list[str], strategy: str, pipeline: Pipeline
) -> tuple[Sequence, Sequence]:
  """Returns videos and log-mels of a blind strategy, through the codecs."""
  shape, codecs = pipeline.shape, pipeline.codecs
  seconds = shape.frames / shape.fps
  scenes = [
    blind.make_scene(prompt, strategy, seconds, seed)
    for seed, prompt in enumerate(prompts)
  ]
  videos = [
    render_video(x, shape.frames, shape.fps, shape.size[0]) for x in scenes
  ]
  sounds = [render_sound(x, codecs.audio.sample_rate) for x in scenes]
  return (
    codecs.video.decode(codecs.video.encode(np.stack(videos))),
    codecs.audio.mel(codecs.audio.encode(np.stack(sounds))),
  )


def score_references(references: References) -> dict[str, bootstrap.Scores]:
  """Scores the rows to compare with."""
  return {name: bootstrap.aggregate(x) for name, x in references.items()}


def share_settings(
  measured: Mapping[Setting, list[synchworld.ClipScores]],
  references: References,
) -> dict[str, bootstrap.Scores]:
  """Returns the share of the way from blind to ceiling, of each setting."""
  rows = {" ".join(s): (s[0], x) for s, x in measured.items()}
  rows["shuffled"] = ("", references["shuffled"])
  return {
    name: bootstrap.share(
      x,
      references.get(f"blind {task}", references["blind"]),
      references["codec ceiling"],
    )
    for name, (task, x) in rows.items()
  }


def read_originals(names: list[str], pipeline: Pipeline) -> list[GeneratedClip]:
  """Reads the clips in the shape that the model was trained on."""
  shape, rate = pipeline.shape, pipeline.codecs.audio.sample_rate
  clips = [
    media.read_clip(
      epath.Path(CLIPS.value) / name, fps=shape.fps, size=shape.size,
      frames=shape.frames, sample_rate=rate,
    )
    for name in names
  ]  # fmt: skip
  return [GeneratedClip(shape.fps, rate, c.video, c.audio) for c in clips]


def generate(
  pipeline: Pipeline, clips: Mapping[str, Any], task: str, *rule: str
) -> tuple[list[GeneratedClip], list[synchworld.ClipScores]]:
  """Generates the prompts of clips with every seed.

  Splits and seeds share a program: only the noise and the prompts differ.

  Returns:
    The first seed's clips, and each clip's measurements over all seeds.
  """
  sampling, num = pipeline.sampling, len(clips["name"])
  if rule:
    sampling = dataclasses.replace(sampling, guidance=rule[0])
  first, measured = [], []
  for i in range(SEEDS.value):
    items = requests.from_clips(
      tasks.inference_task(task), clips, range(i * num, (i + 1) * num)
    )
    made = pipeline.generate(items, sampling=sampling, batch_size=num)
    measured.append(measure(clips["caption"], made))
    first = first or made
  return first, [bootstrap.pool(same) for same in zip(*measured, strict=True)]


def score_settings(
  measured: Mapping[Setting, list[synchworld.ClipScores]],
) -> dict[str, bootstrap.Scores]:
  """Scores every setting, and its gain on the first rule of its task.

  A gain is called "TASK RULE - FIRST" and pairs clips prompt by prompt.
  """
  rows = {" ".join(s): bootstrap.aggregate(x) for s, x in measured.items()}
  for setting, clips in measured.items():
    first = next(other for other in measured if other[0] == setting[0])
    if setting != first:
      gain = bootstrap.compare(clips, measured[first])
      rows[f"{' '.join(setting)} - {first[-1]}"] = gain
  return rows


def measure(
  prompts: list[str], made: list[GeneratedClip]
) -> list[synchworld.ClipScores]:
  """Measures each clip alone."""
  return [
    synchworld.measure(
      prompt, x.video, log_mel(np.nan_to_num(x.audio)[None])[0], x.fps
    )
    for prompt, x in zip(prompts, made, strict=True)
  ]


def save_clips(
  folder: epath.Path,
  setting: Setting,
  names: list[str],
  made: list[GeneratedClip],
) -> None:
  """Saves every clip as NAME_TASK.mp4, or NAME_TASK_RULE.mp4."""
  files = FileNames()
  for i, (name, item) in enumerate(zip(names, made, strict=True)):
    stem = files.make(name, "", i)
    item.save(folder / f"{'_'.join((stem, *setting))}.mp4")


if __name__ == "__main__":
  command.run(evaluate, ("workdir", "data", "output"))

"""Scores a run on held-out clips of the synthetic world:

    python -m ccl_jax.evaluate --workdir=DIR --data=DIR --clips=DIR --out=DIR \
        [--tasks=a2v,v2a,t2av] [--splits=easy,hard] [--num=32] \
        [--guidance=text,ucg2] [--seeds=3]

For every split a table of `metrics.synchworld`: each task's clips, made from
the held-out prompts (and sound, or video), beside ground truth (the clips as
they are), the codecs' ceiling (encoded and decoded again) and the floor (the
sound of another clip). Scores are measured on decoded pixels and sound.

Rows of guidance that are named are compared on the same prompts and noise: each
has a line, and all but the first another one, what they gain on the first. With
several seeds every clip is made that often; intervals are those of drawing
prompts anew, each with all its clips.

Written: results.json, table.md, the first seed's clips as mp4, and sheet.png.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import tqdm
from absl import flags
from etils import epath

from ccl_jax import command
from ccl_jax.codecs.mel import log_mel
from ccl_jax.data import loader as data_pipeline
from ccl_jax.data import media
from ccl_jax.diffusion import guidance, tasks
from ccl_jax.files import replacing, write_json
from ccl_jax.generation.pipeline import GeneratedClip, Pipeline
from ccl_jax.metrics import contact_sheet, synchworld

WORKDIR = flags.DEFINE_string("workdir", None, "Workdir of a training run.")
DATA = flags.DEFINE_string("data", None, "Encoded clips.")
CLIPS = flags.DEFINE_string("clips", None, "The clips that were encoded.")
OUT = flags.DEFINE_string("out", None, "Folder for the results.")
TASKS = flags.DEFINE_list("tasks", ["a2v", "v2a", "t2av"], "What to score.")
SPLITS = flags.DEFINE_list("splits", ["easy", "hard"], "Splits of the data.")
NUM = flags.DEFINE_integer("num", 32, "Clips of each split.", lower_bound=2)
STEP = flags.DEFINE_integer("step", None, "Checkpoint; default the newest.")
GUIDANCE = flags.DEFINE_list(
  "guidance", [], "Rows of diffusion.guidance; default the run's own."
)
SEEDS = flags.DEFINE_integer(
  "seeds", 1, "How often each clip is made.", lower_bound=1
)
SHOWN = 3  # clips of each task, row and split in sheet.png

# (task,), or (task, row of guidance).
Setting = tuple[str, ...]


def evaluate() -> None:
  """Makes, saves and scores the clips of every split, task and row.

  Raises:
    ValueError: anything that the flags name and that is not there.
  """
  ways = list_ways(TASKS.value, GUIDANCE.value)
  pipeline = Pipeline.load(WORKDIR.value, STEP.value)
  out = epath.Path(OUT.value)
  results, texts, strips = {}, [], []
  for split in SPLITS.value:
    clips = data_pipeline.read_clips(DATA.value, split, NUM.value)
    rows, measured = reference_rows(clips, pipeline), {}
    for way in tqdm.tqdm(ways, desc=f"sample {split}", unit="row"):
      made, measured[way] = make(pipeline, clips, *way)
      save_clips(out / split, way, clips["name"], made)
      strips += [
        (f"{split} {' '.join(way)}: {text}", x.video, x.mel)
        for text, x in zip(clips["caption"], made[:SHOWN], strict=False)
      ]
    results[split] = rows | made_rows(measured)
    title = f"{split}, {len(clips['name'])} clips, step {pipeline.step}"
    texts.append(f"### {title}\n\n{synchworld.table(results[split])}\n")
  report = "\n".join(texts)
  print(report)
  with replacing(out / "table.md") as partial:
    partial.write_text(report)
  write_json(out / "results.json", results)
  contact_sheet.save_png(out / "sheet.png", contact_sheet.contact_sheet(strips))
  print(f"Clips in {out}, overview in {out / 'sheet.png'}")


def list_ways(names: Sequence[str], rows: Sequence[str]) -> list[Setting]:
  """Every task, with every row if any are named, else with the run's own.

  Raises:
    ValueError: an unknown task or row.
  """
  for name in names:
    tasks.inference_task(name)
  for row in rows:
    guidance.row(row)
  return list(itertools.product(*filter(None, (names, rows))))


def reference_rows(
  clips: Mapping[str, Any], pipeline: Pipeline
) -> dict[str, synchworld.Row]:
  """What a model can reach at best, and what chance gives."""
  rows = {}
  if CLIPS.value:
    originals = read_originals(clips["name"], pipeline)
    rows["ground truth"] = score(clips["caption"], originals)
  decoded = pipeline.decode({s: clips[s] for s in ("video", "audio")})
  rows["codec ceiling"] = score(clips["caption"], decoded)
  shifted = decoded[1:] + decoded[:1]
  shuffled = [
    dataclasses.replace(a, audio=b.audio)
    for a, b in zip(decoded, shifted, strict=True)
  ]
  rows["shuffled floor"] = score(clips["caption"], shuffled)
  return rows


def read_originals(names: list[str], pipeline: Pipeline) -> list[GeneratedClip]:
  """The clips themselves, in the shape that the model was trained on."""
  shape, rate = pipeline.shape, pipeline.codecs.audio.sample_rate
  clips = [
    media.read_clip(
      epath.Path(CLIPS.value) / name, fps=shape.fps, size=shape.size,
      frames=shape.frames, sample_rate=rate,
    )
    for name in names
  ]  # fmt: skip
  return [GeneratedClip(shape.fps, rate, c.video, c.audio) for c in clips]


def make(
  pipeline: Pipeline, clips: Mapping[str, Any], task: str, *row: str
) -> tuple[list[GeneratedClip], list[synchworld.Clip]]:
  """The clips of the first seeds, and what those of all seeds measure.

  Splits and seeds share a program: only the noise and the prompts differ.
  """
  sampling, num = pipeline.sampling, len(clips["name"])
  if row:
    sampling = dataclasses.replace(sampling, guidance=row[0])
  first, rounds = [], []
  for i in range(SEEDS.value):
    seeds = range(i * num, (i + 1) * num)
    made = pipeline.decode(pipeline.regenerate(task, clips, seeds, sampling))
    rounds.append(measure(clips["caption"], made))
    first = first or made
  return first, [pool(same) for same in zip(*rounds, strict=True)]


def pool(same: Sequence[synchworld.Clip]) -> synchworld.Clip:
  """Clips of one prompt as one: sums of their totals and counts."""
  return {
    name: tuple(map(sum, zip(*(clip[name] for clip in same), strict=True)))
    for name in same[0]
  }


def made_rows(
  measured: Mapping[Setting, list[synchworld.Clip]],
) -> dict[str, synchworld.Row]:
  """Scores of every way, and what each row gains on the first of its task.

  A gain is "TASK ROW - FIRST", of clips paired prompt by prompt.
  """
  rows = {" ".join(way): synchworld.aggregate(x) for way, x in measured.items()}
  for way, clips in measured.items():
    first = next(other for other in measured if other[0] == way[0])
    if way != first:
      gain = synchworld.compare(clips, measured[first])
      rows[f"{' '.join(way)} - {first[-1]}"] = gain
  return rows


def score(prompts: list[str], made: list[GeneratedClip]) -> synchworld.Row:
  """Scores over clips, on their pixels and their sound."""
  return synchworld.aggregate(measure(prompts, made))


def measure(
  prompts: list[str], made: list[GeneratedClip]
) -> list[synchworld.Clip]:
  """Scores of each clip alone."""
  return [
    synchworld.measure(prompt, x.video, log_mel(x.audio[None])[0], x.fps)
    for prompt, x in zip(prompts, made, strict=True)
  ]


def save_clips(
  folder: epath.Path, way: Setting, names: list[str], made: list[GeneratedClip]
) -> None:
  """NAME_TASK.mp4, or NAME_TASK_ROW.mp4, for every clip."""
  for name, item in zip(names, made, strict=True):
    item.save(folder / f"{'_'.join((PurePath(name).stem, *way))}.mp4")


if __name__ == "__main__":
  command.run(evaluate, ("workdir", "data", "out"))

"""Scores a run on held-out clips of the synthetic world:

    python -m ccl_jax.evaluate --workdir=DIR --data=DIR --clips=DIR --out=DIR \
        [--tasks=a2v,v2a,t2av] [--splits=easy,hard] [--num=32]

For every split a table of `metrics.synchworld`: each task's clips, made from
the held-out prompts (and sound, or video), beside ground truth (the clips as
they are), the codecs' ceiling (encoded and decoded again) and the floor (the
sound of another clip). Scores are measured on decoded pixels and sound.
Written: results.json, table.md, the clips as mp4, and sheet.png.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import tqdm
from absl import flags
from etils import epath

from ccl_jax import command
from ccl_jax.codecs.mel import log_mel
from ccl_jax.data import media
from ccl_jax.data import pipeline as data_pipeline
from ccl_jax.diffusion import tasks
from ccl_jax.files import replacing
from ccl_jax.metrics import pictures, synchworld
from ccl_jax.pipeline import Generated, Pipeline
from ccl_jax.training.checkpoint import write_json

WORKDIR = flags.DEFINE_string("workdir", None, "Workdir of a training run.")
DATA = flags.DEFINE_string("data", None, "Encoded clips.")
CLIPS = flags.DEFINE_string("clips", None, "The clips that were encoded.")
OUT = flags.DEFINE_string("out", None, "Folder for the results.")
TASKS = flags.DEFINE_list("tasks", ["a2v", "v2a", "t2av"], "What to score.")
SPLITS = flags.DEFINE_list("splits", ["easy", "hard"], "Splits of the data.")
NUM = flags.DEFINE_integer("num", 32, "Clips of each split.", lower_bound=2)
STEP = flags.DEFINE_integer("step", None, "Checkpoint; default the newest.")
GUIDANCE = flags.DEFINE_string("guidance", None, "A row of diffusion.guidance.")
SHOWN = 3  # clips of each task and split in sheet.png


def evaluate() -> None:
  """Makes, saves and scores the clips of every split and task.

  Raises:
    ValueError: anything that the flags name and that is not there.
  """
  for task in TASKS.value:
    tasks.inference_task(task)
  pipeline = Pipeline.load(WORKDIR.value, STEP.value)
  if GUIDANCE.value:
    sampling = dataclasses.replace(pipeline.sampling, guidance=GUIDANCE.value)
    pipeline = dataclasses.replace(pipeline, sampling=sampling)
  out = epath.Path(OUT.value)
  results, texts, strips = {}, [], []
  for split in SPLITS.value:
    clips = data_pipeline.read_clips(DATA.value, split, NUM.value)
    rows = reference_rows(clips, pipeline)
    for task in tqdm.tqdm(TASKS.value, desc=f"sample {split}", unit="task"):
      made = pipeline.decode(pipeline.regenerate(task, clips))
      rows[task] = score(clips["caption"], made)
      save_clips(out / split, task, clips["name"], made)
      strips += [
        (f"{split} {task}: {text}", x.video, x.mel)
        for text, x in zip(clips["caption"], made[:SHOWN], strict=False)
      ]
    results[split] = rows
    title = f"{split}, {len(clips['name'])} clips, step {pipeline.step}"
    texts.append(f"### {title}\n\n{synchworld.table(rows)}\n")
  report = "\n".join(texts)
  print(report)
  with replacing(out / "table.md") as partial:
    partial.write_text(report)
  write_json(out / "results.json", results)
  pictures.save_png(out / "sheet.png", pictures.contact_sheet(strips))
  print(f"Clips in {out}, overview in {out / 'sheet.png'}")


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


def read_originals(names: list[str], pipeline: Pipeline) -> list[Generated]:
  """The clips themselves, in the shape that the model was trained on."""
  shape, rate = pipeline.shape, pipeline.codecs.audio.sample_rate
  clips = [
    media.read_clip(
      epath.Path(CLIPS.value) / name, fps=shape.fps, size=shape.size,
      frames=shape.frames, sample_rate=rate,
    )
    for name in names
  ]  # fmt: skip
  return [Generated(shape.fps, rate, c.video, c.audio) for c in clips]


def score(prompts: list[str], made: list[Generated]) -> synchworld.Row:
  """Scores over clips, on their pixels and their sound."""
  return synchworld.aggregate(
    [
      synchworld.measure(prompt, x.video, log_mel(x.audio[None])[0], x.fps)
      for prompt, x in zip(prompts, made, strict=True)
    ]
  )


def save_clips(
  folder: epath.Path, task: str, names: list[str], made: list[Generated]
) -> None:
  """NAME_TASK.mp4 for every clip."""
  for name, item in zip(names, made, strict=True):
    item.save(folder / f"{PurePath(name).stem}_{task}.mp4")


if __name__ == "__main__":
  command.run(evaluate, ("workdir", "data", "out"))

"""Generates clips: python -m ccl_jax.sample --workdir=DIR --task=t2av \
    --prompt='A red face talks. "a i u" A low voice.' --out=DIR

Tasks: t2av, i2av, t2v, i2v, t2a, a2v, v2a; i2* take --image, a2v --audio, v2a
--video (either may be an mp4). Spoken words stand in quotation marks. A list:
--prompts=FILE.jsonl, one object a line with "prompt" and, as needed, "image",
"audio", "video", "seed", "name". Each result is NAME.mp4 (NAME.wav for t2a)
with NAME.json beside it, which says how it was made.
"""

import dataclasses
import json
from typing import Any

import numpy as np
import tqdm
from absl import flags
from etils import epath

from ccl_jax import command
from ccl_jax.config import check_keys
from ccl_jax.data import media
from ccl_jax.diffusion import tasks
from ccl_jax.pipeline import Pipeline
from ccl_jax.sampling import Sampling
from ccl_jax.training.checkpoint import write_json

WORKDIR = flags.DEFINE_string("workdir", None, "Workdir of a training run.")
OUT = flags.DEFINE_string("out", None, "Folder for the results.")
TASK = flags.DEFINE_string("task", "t2av", "What to generate from what.")
PROMPT = flags.DEFINE_string("prompt", None, "One prompt.")
PROMPTS = flags.DEFINE_string("prompts", None, "A .jsonl file of prompts.")
NEGATIVE = flags.DEFINE_string("negative", "", "The negative prompt.")
IMAGE = flags.DEFINE_string("image", None, "First frame, for i2av and i2v.")
AUDIO = flags.DEFINE_string("audio", None, "Sound, for a2v.")
VIDEO = flags.DEFINE_string("video", None, "Video, for v2a.")
SEED = flags.DEFINE_integer("seed", 0, "Of the first prompt; then counted up.")
STEP = flags.DEFINE_integer(
  "step", None, "Checkpoint; the newest if not given."
)
BATCH = flags.DEFINE_integer("batch", 8, "Prompts sampled at once.")
AVERAGE = flags.DEFINE_bool("ema", True, "Use the parameters' average.")
GUIDANCE = flags.DEFINE_string("guidance", None, "A row of diffusion.guidance.")
METHOD = flags.DEFINE_string("method", None, "unipc or euler.")
STEPS = flags.DEFINE_integer("steps", None, "Sampling steps.")
SHIFT = flags.DEFINE_float("shift", None, "Shift of the time schedule.")
VIDEO_SCALE = flags.DEFINE_float("video_scale", None, "Guidance of the video.")
AUDIO_SCALE = flags.DEFINE_float("audio_scale", None, "Guidance of the sound.")
CROSS_SCALE = flags.DEFINE_float("cross_scale", None, "Cross-modal guidance.")

FIELDS = ("prompt", "image", "audio", "video", "seed", "name")


@dataclasses.dataclass(frozen=True)
class Item:
  """One thing to generate; paths are as the user gave them."""

  prompt: str
  seed: int
  name: str
  image: str | None = None
  audio: str | None = None
  video: str | None = None


def generate() -> None:
  """Generates every item of the flags.

  Raises:
    ValueError: anything the user gave that cannot be used, named.
  """
  task = tasks.inference_task(TASK.value)
  items = read_items()
  pipeline = Pipeline.load(WORKDIR.value, STEP.value, AVERAGE.value)
  sampling = dataclasses.replace(pipeline.sampling, **chosen_sampling())
  for start in tqdm.trange(0, len(items), BATCH.value, unit="batch"):
    batch = items[start : start + BATCH.value]
    results = pipeline(
      TASK.value,
      [item.prompt for item in batch],
      negative=NEGATIVE.value,
      seeds=[item.seed for item in batch],
      sampling=sampling,
      **read_given(task, batch, pipeline),
    )
    for item, result in zip(batch, results, strict=True):
      path = result.save(epath.Path(OUT.value) / item.name)
      write_json(path.with_suffix(".json"), settings(item, pipeline, sampling))
      print(path)


def read_items() -> list[Item]:
  """The single prompt of the flags, or the lines of --prompts."""
  if (PROMPT.value is None) == (PROMPTS.value is None):
    raise ValueError("Give either --prompt or --prompts.")
  given = {"image": IMAGE.value, "audio": AUDIO.value, "video": VIDEO.value}
  if PROMPT.value is not None:
    name = f"{TASK.value}_{SEED.value}"
    return [Item(PROMPT.value, SEED.value, name, **given)]
  path = epath.Path(PROMPTS.value)
  if not path.exists():
    raise ValueError(f"--prompts: there is no file '{path}'.")
  lines = [line for line in path.read_text().splitlines() if line.strip()]
  if not lines:
    raise ValueError(f"--prompts: '{path}' holds no line.")
  return [parse_line(line, i, given) for i, line in enumerate(lines)]


def parse_line(line: str, index: int, given: dict[str, Any]) -> Item:
  """One line of the list; fields that it lacks come from the flags."""
  where = f"{PROMPTS.value} line {index + 1}"
  try:
    fields = json.loads(line)
  except json.JSONDecodeError as error:
    raise ValueError(f"{where}: not JSON ({error}).") from error
  if not isinstance(fields, dict) or "prompt" not in fields:
    raise ValueError(f"{where}: expected an object with a 'prompt'.")
  check_keys(fields, FIELDS, where)
  seed = SEED.value + index
  named = {"seed": seed, "name": f"{TASK.value}_{index:04d}"}
  return Item(**(given | named | fields))


def chosen_sampling() -> dict[str, Any]:
  """Those fields of `Sampling` that the flags override."""
  values = {
    "guidance": GUIDANCE.value, "method": METHOD.value, "steps": STEPS.value,
    "shift": SHIFT.value, "video_scale": VIDEO_SCALE.value,
    "audio_scale": AUDIO_SCALE.value, "cross_scale": CROSS_SCALE.value,
  }  # fmt: skip
  return {name: value for name, value in values.items() if value is not None}


def read_given(
  task: tasks.InferenceTask, items: list[Item], pipeline: Pipeline
) -> dict[str, list[np.ndarray]]:
  """Images, sounds or videos, as the task needs them, at the model's shape."""
  wanted = {
    "image": task.first_frame,
    "audio": "audio" in task.given,
    "video": "video" in task.given,
  }
  for name, needed in wanted.items():
    for item in items:
      if needed != (getattr(item, name) is not None):
        verb = "needs" if needed else "takes no"
        raise ValueError(f"Task '{TASK.value}' {verb} --{name} ({item.name}).")
  readers = {"image": read_image, "audio": read_audio, "video": read_video}
  return {
    f"{name}s": [readers[name](getattr(i, name), pipeline) for i in items]
    for name, needed in wanted.items()
    if needed
  }


def read_image(path: str, pipeline: Pipeline) -> np.ndarray:
  """(y, x, 3), scaled and cropped to the model's size."""
  return media.read_image(path, pipeline.shape.size)


def read_audio(path: str, pipeline: Pipeline) -> np.ndarray:
  """Mono samples of the clip's length."""
  return read_clip(path, pipeline, need_video=False).audio


def read_video(path: str, pipeline: Pipeline) -> np.ndarray:
  """(t, y, x, 3) at the model's rate and size."""
  return read_clip(path, pipeline, need_audio=False).video


def read_clip(path: str, pipeline: Pipeline, **needs: bool) -> media.Clip:
  """A clip in the shape that the model was trained on."""
  shape = pipeline.shape
  return media.read_clip(
    path, fps=shape.fps, size=shape.size, frames=shape.frames,
    sample_rate=pipeline.codecs.audio.sample_rate, **needs,
  )  # fmt: skip


def settings(
  item: Item, pipeline: Pipeline, sampling: Sampling
) -> dict[str, Any]:
  """What the JSON beside a result says."""
  return dataclasses.asdict(item) | {
    "task": TASK.value,
    "negative": NEGATIVE.value,
    "sampling": dataclasses.asdict(sampling),
    "checkpoint": {
      "workdir": WORKDIR.value,
      "step": pipeline.step,
      "ema": AVERAGE.value,
    },
    "fps": pipeline.shape.fps,
  }


if __name__ == "__main__":
  command.run(generate, ("workdir", "out"))

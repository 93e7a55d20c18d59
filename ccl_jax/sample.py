"""Generates clips: python -m ccl_jax.sample --workdir=DIR --task=t2av \
    --prompt='A red face talks. "a i u" A low voice.' --out=DIR

Tasks: t2av, i2av, t2v, i2v, t2a, a2v, v2a; i2* take --image, a2v --audio, v2a
--video (either may be an mp4). Spoken words stand in quotation marks.

--prompts=FILE.jsonl makes a list of any length (`prompts` says what a line is;
what it leaves out is taken from the flags), `--batch` at once, over all devices
of this host; give every host the same command and --distributed, and each makes
its share. The same command goes on where it was stopped. Results depend on
their seeds and on neither batch nor devices. A line that cannot be made is told
and the others go on; the exit code is then 1.
"""

import dataclasses
import resource
import sys
import typing
from typing import Any

import tqdm
from absl import flags
from etils import epath

from ccl_jax import command, distributed
from ccl_jax.generation import batch, requests
from ccl_jax.generation.pipeline import Pipeline
from ccl_jax.generation.sampling import AttentionProbe, SamplingConfig, spread
from ccl_jax.training import throughput

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
BATCH = flags.DEFINE_integer(
  "batch", 8, "Prompts sampled at once.", lower_bound=1
)
AVERAGE = flags.DEFINE_bool("ema", True, "Use the parameters' average.")
FSDP = flags.DEFINE_integer(
  "fsdp", 1, "Devices that share the parameters.", lower_bound=1
)
CONTEXT = flags.DEFINE_integer(
  "context", 1, "Devices that share the frames of a clip.", lower_bound=1
)
MAPS = flags.DEFINE_bool(
  "attention_maps", False, "Show where cross-modal attention goes."
)
MAP_STEPS = flags.DEFINE_multi_integer(
  "attention_step", None, "Of the maps, from 0; the first, middle and last."
)
MAP_LAYERS = flags.DEFINE_multi_integer(
  "attention_layer", None, "Of the maps, from 0; the first, middle and last."
)
OFFLOAD = flags.DEFINE_bool(
  "offload", False, "Have text encoder, model and codecs in memory in turn."
)
DISTRIBUTED = flags.DEFINE_string(
  "distributed", "off", "off, auto, or HOST:PORT,PROCESSES,INDEX."
)

_SHOWN = 10  # problems that are told once more at the end


def define(field: dataclasses.Field) -> flags.FlagHolder:
  """The flag that overrides a field of `SamplingConfig`."""
  kinds = {
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    bool: flags.DEFINE_bool,
    str: flags.DEFINE_string,
  }
  options = (field.type, *typing.get_args(field.type))  # float | None
  make = next(kinds[each] for each in options if each in kinds)
  return make(
    field.name, None, "As in the run, if not given; see `SamplingConfig`."
  )


SAMPLING = [define(field) for field in dataclasses.fields(SamplingConfig)]


def generate() -> None:
  """Generates every item of the flags.

  Raises:
    ValueError: anything the user gave that cannot be used, named.
  """
  share = distributed.initialize(DISTRIBUTED.value)
  out = epath.Path(OUT.value)
  batch.clear(out, share)
  items, problems = read_items()
  SamplingConfig(
    **chosen_sampling()
  )  # what is wrong alone is so before we load
  problems = problems if share.is_lead else []
  for problem in problems:
    tell(problem)
  mine = items[share.shard_index :: share.shard_count]
  problems += make(mine, out, is_shown=share.is_lead) if mine else []
  problems = batch.meet(out, share, problems)
  distributed.shutdown()
  if share.is_lead:
    tell(memory())
  if problems:
    raise ValueError(summary(problems))


def read_items() -> tuple[list[requests.Request], list[str]]:
  """The single prompt of the flags, or the good lines of --prompts.

  And what is wrong with the other lines.
  """
  if (PROMPT.value is None) == (PROMPTS.value is None):
    raise ValueError("Give either --prompt or --prompts.")
  fields = {
    "task": TASK.value, "negative": NEGATIVE.value, "seed": SEED.value,
    "image": IMAGE.value, "audio": AUDIO.value, "video": VIDEO.value,
  }  # fmt: skip
  if PROMPTS.value is not None:
    return requests.read_list(PROMPTS.value, fields)
  name = f"{TASK.value}_{SEED.value}"
  item = requests.make_item({"prompt": PROMPT.value, "name": name} | fields)
  return [item], []


def make(
  items: list[requests.Request], out: epath.Path, is_shown: bool
) -> list[str]:
  """Makes items; returns what was wrong with some of them."""
  mesh = {"data": -1, "fsdp": FSDP.value, "context": CONTEXT.value}
  pipeline = Pipeline.load(
    WORKDIR.value, STEP.value, AVERAGE.value, mesh=mesh, offload=OFFLOAD.value
  )
  sampling = dataclasses.replace(pipeline.sampling, **chosen_sampling())
  about = {
    "checkpoint": {
      "workdir": WORKDIR.value,
      "step": pipeline.step,
      "ema": AVERAGE.value,
    },
    "fps": pipeline.shape.fps,
  }
  made = batch.BatchGenerator(
    pipeline, sampling, out, BATCH.value, about, tell, is_shown,
    look(sampling.num_inference_steps, pipeline.model["num_layers"]),
  )  # fmt: skip
  return made.run(items)


def look(steps: int, layers: int) -> AttentionProbe | None:
  """What attention maps show, if there are to be any."""
  if not MAPS.value:
    return None
  return AttentionProbe(
    tuple(MAP_STEPS.value or spread(steps)),
    tuple(MAP_LAYERS.value or spread(layers)),
  )


def chosen_sampling() -> dict[str, Any]:
  """Those fields of `SamplingConfig` that the flags override."""
  return {flag.name: flag.value for flag in SAMPLING if flag.value is not None}


def tell(text: str) -> None:
  """A line above the progress bar."""
  tqdm.tqdm.write(text, file=sys.stderr)


def summary(problems: list[str]) -> str:
  """The one problem, or how many there are, and the last of them."""
  if len(problems) == 1:
    return problems[0]
  shown = "\n".join(problems[-_SHOWN:])
  return f"{len(problems)} prompts could not be made, at last:\n{shown}"


def memory() -> str:
  """The most memory that this process has had."""
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
  text = f"Peak memory: {peak:.2f} GiB of the host"
  device = throughput.memory().get("hbm_peak_gib")
  return text if device is None else f"{text}, {device:.2f} GiB of a device"


if __name__ == "__main__":
  command.run(generate, ("workdir", "out"))

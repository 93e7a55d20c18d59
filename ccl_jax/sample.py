r"""Generates clips from prompts:

    python -m ccl_jax.sample --workdir=RUN --output=DIR --task=t2av \
        --prompt='A red face talks. "a i u" A low voice.'

Tasks: t2av, i2av, t2v, i2v, t2a, a2v, v2a. The tasks i2av and i2v take --image,
a2v takes --audio and v2a --video (either may be an mp4). A model with reference
pictures takes --image for a2v and t2v too. Put spoken words in quotation marks.

--prompts=FILE.jsonl generates a list of any length, --batch clips at once, over
all devices of this host (`generation.requests` describes a line; the flags
supply fields that it lacks). Start the same command on every host with
--distributed, and each generates its share. The same command resumes. A result
depends on its seed and not on the rest of the list; on a CPU it has the same
bytes for every --batch, order and restart. A line that fails is reported and
the others go on; the exit code is then 2.
"""

import dataclasses
import resource
import sys
import typing
from typing import Any

import tqdm
from absl import flags
from etils import epath

from ccl_jax import command
from ccl_jax.generation import batch, requests
from ccl_jax.generation.pipeline import Pipeline
from ccl_jax.generation.sampling import AttentionProbe, first_middle_last
from ccl_jax.generation.sampling_config import SamplingConfig
from ccl_jax.processes import distributed
from ccl_jax.storage import files
from ccl_jax.training import throughput

WORKDIR = flags.DEFINE_string(
  "workdir", None, "Workdir of the training run to sample from."
)
OUTPUT = flags.DEFINE_string("output", None, "Folder for the results.")
TASK = flags.DEFINE_string(
  "task", "t2av", "One of t2av, i2av, t2v, i2v, t2a, a2v, v2a."
)
PROMPT = flags.DEFINE_string("prompt", None, "The prompt, for a single clip.")
PROMPTS = flags.DEFINE_string(
  "prompts", None, "A .jsonl file of prompts, one JSON object a line."
)
NEGATIVE = flags.DEFINE_string(
  "negative", "", "Negative prompt, what guidance leads away from."
)
IMAGE = flags.DEFINE_string(
  "image", None,
  "First frame, for i2av and i2v; a reference picture, for a2v and t2v of a"
  " model that reads one.",
)  # fmt: skip
AUDIO = flags.DEFINE_string("audio", None, "File with sound, for a2v.")
VIDEO = flags.DEFINE_string("video", None, "File with video, for v2a.")
SEED = flags.DEFINE_integer(
  "seed", 0, "Seed of the first prompt; each further prompt adds 1."
)
SHAPE = command.define_shape("clips that the run was trained on")
STEP = command.define_step()
BATCH = flags.DEFINE_integer(
  "batch", 8,
  "Clips that are sampled at once, at most; a CPU samples one at a time.",
  lower_bound=1,
)  # fmt: skip
EMA = flags.DEFINE_bool(
  "ema", True, "Use the moving average of the parameters, not the last ones."
)
LORA = flags.DEFINE_multi_string(
  "lora", [],
  "LoRA to add to the run's weights, PATH or PATH:SCALE, a run or a file of"
  " convert; repeatable, all are added. The scale is 1 if unset.",
)  # fmt: skip
FSDP = flags.DEFINE_integer(
  "fsdp", 1, "Devices that the parameters are split over.", lower_bound=1
)
CONTEXT = flags.DEFINE_integer(
  "context", 1, "Devices that the frames of a clip are split over.",
  lower_bound=1,
)  # fmt: skip
MAPS = flags.DEFINE_bool(
  "attention_maps", False,
  "Draw how much cross-modal attention each token pays to the other stream.",
)  # fmt: skip
MAP_STEPS = flags.DEFINE_multi_integer(
  "attention_step", None,
  "Sampler step to draw, from 0; repeatable. First, middle and last if unset.",
)  # fmt: skip
MAP_LAYERS = flags.DEFINE_multi_integer(
  "attention_layer", None,
  "Layer to draw, from 0; repeatable. First, middle and last if unset.",
)  # fmt: skip
OFFLOAD = flags.DEFINE_bool(
  "offload", False,
  "Keep text encoder, codecs and model in memory only while they are used.",
)  # fmt: skip
DISTRIBUTED = command.define_distributed()

_SHOWN = 10  # problems that are repeated at the end


def define(field: dataclasses.Field) -> flags.FlagHolder:
  """Defines the flag that overrides a field of `SamplingConfig`."""
  kinds = {
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    bool: flags.DEFINE_bool,
    str: flags.DEFINE_string,
  }
  options = (field.type, *typing.get_args(field.type))  # float | None
  make = next(kinds[each] for each in options if each in kinds)
  text = f"{field.metadata['help']} As the run's config has it, if unset."
  return make(field.name, None, text)


SAMPLING = [define(field) for field in dataclasses.fields(SamplingConfig)]


def generate() -> None:
  """Generates every request; ValueError names what of the flags is wrong."""
  share = distributed.initialize(DISTRIBUTED.value)
  output = files.check_folder(OUTPUT.value)
  batch.reset_problems(output, share)
  items, problems = read_requests()
  if PROMPT.value is not None:  # a list names its results, and may be edited
    batch.check_same_request(items[0], output)
  SamplingConfig(**sampling_overrides())  # fail before anything is loaded
  SHAPE.read()
  problems = problems if share.is_lead else []
  for problem in problems:
    warn(problem)
  mine = items[share.shard_index :: share.shard_count]
  problems += write(mine, output, share.is_lead) if mine else []
  problems = batch.gather_problems(output, share, problems)
  distributed.shutdown()
  if share.is_lead:
    warn(peak_memory())
  if problems:
    raise ValueError(summarize(problems))


def read_requests() -> tuple[list[requests.Request], list[str]]:
  """Returns the requests, and a message for each invalid line of --prompts."""
  if (PROMPT.value is None) == (PROMPTS.value is None):
    raise ValueError("Give either --prompt or --prompts.")
  fields = {
    "task": TASK.value, "negative": NEGATIVE.value, "seed": SEED.value,
    "image": IMAGE.value, "audio": AUDIO.value, "video": VIDEO.value,
  }  # fmt: skip
  if PROMPTS.value is not None:
    return requests.read_list(PROMPTS.value, fields, MAPS.value)
  name = f"{TASK.value}_{SEED.value}"
  fields |= {"prompt": PROMPT.value, "name": name}
  return [requests.make_request(fields)], []


def write(
  items: list[requests.Request], output: epath.Path, show_progress: bool
) -> list[str]:
  """Loads the run and writes results; returns a message per failure."""
  mesh = {"data": -1, "fsdp": FSDP.value, "context": CONTEXT.value}
  pipeline = Pipeline.load(
    WORKDIR.value, STEP.value, EMA.value, mesh=mesh, offload=OFFLOAD.value,
    loras=LORA.value, **SHAPE.read(),
  )  # fmt: skip
  sampling = dataclasses.replace(pipeline.sampling, **sampling_overrides())
  about = {
    "checkpoint": {
      "workdir": WORKDIR.value,
      "step": pipeline.step,
      "ema": EMA.value,
      **({"lora": LORA.value} if LORA.value else {}),
    },
    "fps": pipeline.shape.fps,
  }
  generator = batch.BatchGenerator(
    pipeline, sampling, output, BATCH.value, about, warn, show_progress,
    make_probe(sampling.num_inference_steps, pipeline.plan.num_layers),
  )  # fmt: skip
  return generator.run(items)


def make_probe(steps: int, layers: int) -> AttentionProbe | None:
  """Returns the steps and layers of --attention_maps, None without it."""
  if not MAPS.value:
    return None
  chosen = []
  for flag, num in ((MAP_STEPS, steps), (MAP_LAYERS, layers)):
    chosen.append(tuple(flag.value or first_middle_last(num)))
    for index in chosen[-1]:
      if not 0 <= index < num:
        raise ValueError(f"--{flag.name}={index}: expected 0 to {num - 1}.")
  return AttentionProbe(*chosen)


def sampling_overrides() -> dict[str, Any]:
  """Returns the fields of `SamplingConfig` that the flags set."""
  return {flag.name: flag.value for flag in SAMPLING if flag.value is not None}


def warn(text: str) -> None:
  """Prints a line above the progress bar."""
  tqdm.tqdm.write(text, file=sys.stderr)


def summarize(problems: list[str]) -> str:
  """Returns the only problem, or their number and the last of them."""
  if len(problems) == 1:
    return problems[0]
  shown = "\n".join(problems[-_SHOWN:])
  return f"{len(problems)} prompts failed, the last of them:\n{shown}"


def peak_memory() -> str:
  """Describes the peak memory of this process."""
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
  text = f"Peak memory: {peak:.2f} GiB of the host"
  device = throughput.memory_metrics().get("hbm_peak_gib")
  return text if device is None else f"{text}, {device:.2f} GiB of a device"


if __name__ == "__main__":
  command.run(generate, ("workdir", "output"))

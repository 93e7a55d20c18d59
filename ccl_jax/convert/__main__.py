"""Weights of other programs, and what files of weights hold.

    python -m ccl_jax.convert from-torch --model=wan --input=PATH --output=DIR \
        [--size=14b] [--force]
    python -m ccl_jax.convert to-torch --checkpoint=WORKDIR --output=DIR \
        [--step=N] [--noema] [--dtype=bfloat16] [--part=video] [--force]
    python -m ccl_jax.convert average --checkpoint=WORKDIR --steps=1000,2000 \
        --output=DIR [--force]
    python -m ccl_jax.convert inspect PATH [--every]

from-torch reads the files people have: Wan-AI's, MMAudio's, BigVGAN's, and
diffusers' and transformers' folders. Of --model=wan (the diffusion transformer)
it makes a workdir that training starts from (`config.init.from_runs`); of what
to-torch wrote (--model=ccl) one that the pipeline starts from too; of wan-vae,
umt5, clip, mmaudio and bigvgan the folder that the codecs open.
to-torch writes a run as a folder of diffusers, average the mean of several of
its steps as a new workdir; inspect tells what any of these files hold. A
checkpoint and what is made may be in a bucket, other files may not.
"""

import re
import sys

from absl import flags
from etils import epath

from ccl_jax import command
from ccl_jax.convert import average, codecs, export, inspection, transformer

MODEL = flags.DEFINE_enum(
  "model", None, ["wan", "ccl", *codecs.MODELS], "Whose weights they are."
)
INPUT = flags.DEFINE_string("input", None, "File or folder.")
OUTPUT = flags.DEFINE_string("output", None, "Folder to make.")
SIZE = flags.DEFINE_string("size", None, "Of --model=wan; else the file tells.")
FORCE = flags.DEFINE_bool("force", False, "Replace an existing --output.")
EVERY = flags.DEFINE_bool("every", False, "A line for every array.")
CHECKPOINT = flags.DEFINE_string(
  "checkpoint", None, "Workdir of a run, or the folder of one of its steps."
)
STEP = flags.DEFINE_integer("step", None, "Checkpoint; default the newest.")
STEPS = flags.DEFINE_list("steps", None, "Checkpoints to take the mean of.")
AVERAGE = flags.DEFINE_bool("ema", True, "Export the parameters' average.")
DTYPE = flags.DEFINE_enum("dtype", "float32", list(export.DTYPES), "Of all.")
SHARD = flags.DEFINE_string("shard-size", "5GB", "A file's: bytes, MB or GB.")
PART = flags.DEFINE_enum(
  "part", "all", export.PARTS, "video: as diffusers' WanTransformer3DModel."
)
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def from_torch() -> None:
  """Reads the flags and converts."""
  output = new_output()
  if MODEL.value != "wan" and SIZE.value is not None:
    raise ValueError("--size is for --model=wan.")
  if MODEL.value == "wan":
    about = transformer.from_torch(INPUT.value, output, SIZE.value)
  elif MODEL.value == "ccl":
    about = transformer.from_export(INPUT.value, output)
  else:
    about = codecs.convert(MODEL.value, INPUT.value, output)
  print(
    f"{about['model']}: {about['parameters']:,} parameters, in the layout of"
    f" {about['layout']}, now in {output}. Licence: {about['licence']}."
  )


def to_torch() -> None:
  """Reads the flags and converts."""
  about = export.to_torch(
    CHECKPOINT.value,
    new_output(),
    step=STEP.value,
    average=AVERAGE.value,
    dtype=DTYPE.value,
    shard_size=number_of_bytes(SHARD.value),
    part=PART.value,
  )
  print(
    f"{about['class']}: {about['parameters']:,} parameters of step"
    f" {about['step']}{', averaged' * about['averaged']}, in {about['dtype']},"
    f" now in {OUTPUT.value}."
  )


def mean() -> None:
  """Reads the flags and takes the mean."""
  if not all(step.isdigit() for step in STEPS.value):
    raise ValueError(f"--steps={','.join(STEPS.value)}: expected numbers.")
  steps = [int(step) for step in STEPS.value]
  about = average.average(CHECKPOINT.value, steps, new_output())
  print(
    f"The mean of the steps {', '.join(map(str, about['mean_of']))} is now in"
    f" {OUTPUT.value}: {about['parameters']:,} parameters."
  )


def new_output() -> epath.Path:
  """The folder to make.

  Raises:
    ValueError: it is there, and not --force.
  """
  output = epath.Path(OUTPUT.value)
  if output.exists() and not FORCE.value:
    raise ValueError(f"'{output}' exists; --force replaces it.")
  return output


def number_of_bytes(text: str) -> int:
  """ "5GB" -> 5 * 10**9.

  Raises:
    ValueError: it is no such size.
  """
  found = re.fullmatch(r"(\d+) ?([KMG]B|)", text)
  if not found or not int(found[1]):
    raise ValueError(f"--shard-size={text}: expected a size as 5GB or 500MB.")
  return int(found[1]) * _UNITS[found[2]]


def inspect() -> None:
  """Prints what is in the file."""
  print(inspection.report(INPUT.value, EVERY.value))


# By its name: what to call, and the flags it must have.
COMMANDS = {
  "from-torch": (from_torch, ("model", "input", "output")),
  "to-torch": (to_torch, ("checkpoint", "output")),
  "average": (mean, ("checkpoint", "steps", "output")),
  "inspect": (inspect, ("input",)),
}


def main() -> None:
  """Takes the command and the path behind it out of the arguments."""
  name, *rest = sys.argv[1:] or [""]
  if name in ("--help", "--helpfull"):
    command.run(inspect, ())
  if name not in COMMANDS:
    raise SystemExit(f"error: expected a command: {', '.join(COMMANDS)}.")
  if rest and not rest[0].startswith("-"):
    rest[0] = f"--input={rest[0]}"
  sys.argv[1:] = rest
  command.run(*COMMANDS[name])


if __name__ == "__main__":
  main()

"""Weights of other programs, and what files of weights hold.

    python -m ccl_jax.convert from-torch --model=wan --input=PATH --output=DIR \
        [--size=14b] [--force]
    python -m ccl_jax.convert inspect PATH [--every]

from-torch reads the files people have: Wan-AI's, MMAudio's, BigVGAN's, and
diffusers' and transformers' folders. Of --model=wan (the diffusion transformer)
it makes a workdir that training starts from (`config.initial.sources`); of
wan-vae, umt5, clip, mmaudio and bigvgan the folder that the codecs open.
inspect tells what such files, and those of training, hold.
"""

import sys

from absl import flags
from etils import epath

from ccl_jax import command
from ccl_jax.convert import codecs, dit, inspection

MODEL = flags.DEFINE_enum(
  "model", None, ["wan", *codecs.MODELS], "Whose weights they are."
)
INPUT = flags.DEFINE_string("input", None, "File or folder.")
OUTPUT = flags.DEFINE_string("output", None, "Folder to make.")
SIZE = flags.DEFINE_string("size", None, "Of --model=wan; else the file tells.")
FORCE = flags.DEFINE_bool("force", False, "Replace an existing --output.")
EVERY = flags.DEFINE_bool("every", False, "A line for every array.")


def from_torch() -> None:
  """Reads the flags and converts."""
  output = epath.Path(OUTPUT.value)
  if output.exists() and not FORCE.value:
    raise ValueError(f"'{output}' exists; --force replaces it.")
  if MODEL.value == "wan":
    about = dit.from_torch(INPUT.value, output, SIZE.value)
  elif SIZE.value is not None:
    raise ValueError("--size is for --model=wan.")
  else:
    about = codecs.convert(MODEL.value, INPUT.value, output)
  print(
    f"{about['model']}: {about['parameters']:,} parameters, in the layout of"
    f" {about['layout']}, now in {output}. Licence: {about['licence']}."
  )


def inspect() -> None:
  """Prints what is in the file."""
  print(inspection.report(INPUT.value, EVERY.value))


# By its name: what to call, and the flags it must have.
COMMANDS = {
  "from-torch": (from_torch, ("model", "input", "output")),
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

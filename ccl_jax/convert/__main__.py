r"""Converts weights from and to PyTorch, and shows what files of weights hold.

    python -m ccl_jax.convert from-torch --model=wan --input=PATH --output=DIR \
        [--size=14b] [--expert=high] [--force]
    python -m ccl_jax.convert to-torch --workdir=RUN --output=DIR [--step=N] \
        [--noema] [--dtype=bfloat16] [--component=video] [--layout=single] \
        [--force]
    python -m ccl_jax.convert average --workdir=RUN --steps=1000,2000 \
        --output=DIR [--force]
    python -m ccl_jax.convert merge --workdir=RUN --lora=PATH:0.8 \
        --output=DIR [--force]
    python -m ccl_jax.convert inspect PATH [--all]

from-torch reads the published files of Wan-AI, DiT, MMAudio and BigVGAN, and
folders of diffusers and transformers. With --model=wan or dit (transformers of
video and of images) it writes a workdir that training starts from
(`config.init.from_runs`). With --model=ccl it reads what to-torch wrote, and
the workdir can also be sampled from. With any other model it writes a folder
that the codecs open (`weights.*` of `encode`).

to-torch writes a run as a folder like those of diffusers; with --component=lora
it exports a LoRA alone. average writes the mean of several checkpoints as a new
workdir; merge adds LoRA to the matrices of a run. inspect prints the arrays of
any of these. Workdirs and outputs may be in a bucket, PyTorch's files may not.
"""

import re
import sys
from collections.abc import Set

from absl import flags
from etils import epath

from ccl_jax import command
from ccl_jax.convert import (
  average,
  codecs,
  export,
  inspection,
  lora_names,
  lora_writer,
  loras,
  transformer,
  workdirs,
)
from ccl_jax.storage import files

MODEL = flags.DEFINE_enum(
  "model", None, [*transformer.FAMILIES, "ccl", *codecs.MODELS],
  "Model family of the weights that from-torch reads.",
)  # fmt: skip
INPUT = flags.DEFINE_string(
  "input", None, "File or folder of weights to read (from-torch, inspect)."
)
OUTPUT = flags.DEFINE_string("output", None, "Folder to write.")
SIZE = flags.DEFINE_string(
  "size", None,
  "Size of --model=wan, such as 14b or 1.3b-i2v, or of --model=dit, such as"
  " xl-2; recognised from the file if unset.",
)  # fmt: skip
FORCE = flags.DEFINE_bool(
  "force", False, "Replace an --output that these commands wrote."
)
ALL = flags.DEFINE_bool(
  "all", False,
  "Print every array (inspect), where those of all layers share a line by"
  " default.",
)  # fmt: skip
WORKDIR = flags.DEFINE_string(
  "workdir", None,
  "Workdir of a training run (to-torch, average), or, for to-torch, the folder"
  " of one of its checkpoints.",
)  # fmt: skip
STEP = command.define_step()
STEPS = flags.DEFINE_list(
  "steps", None, "Steps of the checkpoints to average, such as 1000,2000."
)
EMA = flags.DEFINE_bool(
  "ema", True, "Export the moving average of the parameters, not the last ones."
)
DTYPE = flags.DEFINE_enum(
  "dtype", "float32", list(export.DTYPES), "Dtype of all exported arrays."
)
MAX_SHARD_SIZE = flags.DEFINE_string(
  "max_shard_size", "5GB",
  "Largest size of an exported file, in bytes, KB, MB or GB (powers of 1000).",
)  # fmt: skip
COMPONENT = flags.DEFINE_enum(
  "component", "all", export.COMPONENTS,
  "What to export: the full model (all), its video stream for diffusers'"
  " WanTransformer3DModel (video), or the LoRA of a run alone (lora).",
)  # fmt: skip
LAYOUT = flags.DEFINE_enum(
  "layout", "folder", export.LAYOUTS,
  "How to-torch writes: a folder like diffusers' (folder), or one safetensors"
  " file with Wan's own names of the video part (single).",
)  # fmt: skip
EXPERT = flags.DEFINE_enum(
  "expert", None, list(transformer.EXPERTS),
  "Which of the two experts of Wan2.2-A14B --model=wan reads: that of high"
  " noise or that of low.",
)  # fmt: skip
LORA_STYLE = flags.DEFINE_enum(
  "lora_style", "diffusers", list(lora_names.STYLES),
  "Names in the file of --component=lora: those of diffusers, or of Wan as"
  " ComfyUI loads them.",
)  # fmt: skip
LORA = flags.DEFINE_multi_string(
  "lora", None,
  "LoRA to merge, PATH or PATH:SCALE, a run or a file; repeatable, all are"
  " added. The scale is 1 if unset.",
)  # fmt: skip
# What the commands write into a folder: one of the first, and others.
_MAIN_NAMES = {
  workdirs.ABOUT, export.TRANSFORMER, f"{export.SINGLE}.safetensors",
  f"{lora_writer.STEM}.safetensors",
}  # fmt: skip
_OTHER_NAMES = {
  "arrays", "checkpoints", "scheduler", "README.md", export.RUN,
  *workdirs.RUN_FILES,
}  # fmt: skip
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def from_torch() -> None:
  """Converts weights of PyTorch."""
  output = new_output(INPUT.value)
  if MODEL.value not in transformer.FAMILIES and SIZE.value is not None:
    raise ValueError("--size is for --model=wan and --model=dit only.")
  if MODEL.value != "wan" and EXPERT.value is not None:
    raise ValueError("--expert is for --model=wan only.")
  if MODEL.value in transformer.FAMILIES:
    about = transformer.from_torch(
      INPUT.value, output, SIZE.value, expert=EXPERT.value, family=MODEL.value
    )
  elif MODEL.value == "ccl":
    about = transformer.from_export(INPUT.value, output)
  else:
    about = codecs.convert(MODEL.value, INPUT.value, output)
  print(
    f"Wrote {output}: {about['model']} with {about['parameters']:,} parameters,"
    f" named as in {about['layout']}. Licence: {about['licence']}."
  )


def to_torch() -> None:
  """Exports a run to PyTorch."""
  run, _ = workdirs.split_step(WORKDIR.value)
  about = export.to_torch(
    WORKDIR.value,
    new_output(run),
    step=STEP.value,
    ema=EMA.value,
    dtype=DTYPE.value,
    shard_size=parse_bytes(MAX_SHARD_SIZE.value),
    component=COMPONENT.value,
    lora_style=LORA_STYLE.value,
    layout=LAYOUT.value,
  )
  print(
    f"Wrote {OUTPUT.value}: {about['class']} with {about['parameters']:,}"
    f" parameters of step {about['step']}"
    f"{', moving average' * about['is_ema']}, in {about['dtype']}."
  )


def average_steps() -> None:
  """Averages checkpoints of a run."""
  if not all(step.isdigit() for step in STEPS.value):
    raise ValueError(f"--steps={','.join(STEPS.value)}: expected numbers.")
  steps = [int(step) for step in STEPS.value]
  about = average.average(WORKDIR.value, steps, new_output(WORKDIR.value))
  print(
    f"Wrote {OUTPUT.value}: mean of steps"
    f" {', '.join(map(str, about['mean_of']))}, {about['parameters']:,}"
    " parameters."
  )


def merge_lora() -> None:
  """Adds LoRA to the kernels of a run."""
  paths = [loras.split_scale(text)[0] for text in LORA.value]
  output = new_output(WORKDIR.value, *paths)
  about = loras.merge(WORKDIR.value, LORA.value, output, STEP.value, EMA.value)
  print(
    f"Wrote {OUTPUT.value}: {about['parameters']:,} parameters with"
    f" {', '.join(about['loras'])}."
  )


def inspect() -> None:
  """Prints the arrays of a checkpoint."""
  print(inspection.report(INPUT.value, ALL.value))


def new_output(*inputs: epath.PathLike) -> epath.Path:
  """Returns the folder to write.

  Raises:
    ValueError: it is one of the inputs or holds one, or it exists without
      --force, or was not written by these commands.
  """
  files.check_apart(OUTPUT.value, *inputs)
  files.check_new(OUTPUT.value, FORCE.value, is_written)
  return epath.Path(OUTPUT.value)


def is_written(names: Set[str]) -> bool:
  """Returns whether a folder with these names in it was written here."""
  return bool(names & _MAIN_NAMES) and names <= _MAIN_NAMES | _OTHER_NAMES


def parse_bytes(text: str) -> int:
  """Returns the bytes of a size such as "5GB"; ValueError if it is none."""
  found = re.fullmatch(r"(\d+) ?([KMG]B|)", text)
  if not found or not int(found[1]):
    raise ValueError(
      f"--max_shard_size={text}: expected a size such as 5GB or 500MB."
    )
  return int(found[1]) * _UNITS[found[2]]


# Name of the command -> its function, and the flags that it requires.
COMMANDS = {
  "from-torch": (from_torch, ("model", "input", "output")),
  "to-torch": (to_torch, ("workdir", "output")),
  "average": (average_steps, ("workdir", "steps", "output")),
  "merge": (merge_lora, ("workdir", "lora", "output")),
  "inspect": (inspect, ("input",)),
}


def main() -> None:
  """Runs the command named by the first argument; the others are its flags."""
  name, *rest = sys.argv[1:] or [""]
  if name in ("--help", "--helpfull"):
    command.run(inspect, ())
  if name not in COMMANDS:
    print(f"error: expected a command: {', '.join(COMMANDS)}.", file=sys.stderr)
    raise SystemExit(2)
  if rest and not rest[0].startswith("-"):
    rest[0] = f"--input={rest[0]}"
  sys.argv[1:] = rest
  command.run(*COMMANDS[name])


if __name__ == "__main__":
  main()

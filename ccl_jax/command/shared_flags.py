"""Flags that several commands have."""

from typing import Any, NamedTuple

from absl import flags

# The flags that this module defines are those of the command that asks, whose
# --help shows them.
flags.disclaim_key_flags()


class _StepParser(flags.ArgumentParser):
  """Parser of a step, or of the word "best"."""

  syntactic_help = "a number, or best"

  def parse(self, argument: int | str) -> int | str:
    """Returns a number or "best"; ValueError for anything else."""
    if argument == "best" or isinstance(argument, int):
      return argument
    if not argument.isdigit():
      raise ValueError(f"'{argument}' is no step: expected a number, or best")
    return int(argument)


def define_step() -> flags.FlagHolder:
  """Defines --step, which checkpoint of a run to take."""
  help = (
    "Step of the checkpoint, or best: that of checkpoint.keep_best. The newest"
    " if unset."
  )
  return flags.DEFINE(
    _StepParser(), "step", None, help, flags.FLAGS, flags.ArgumentSerializer()
  )


def define_distributed() -> flags.FlagHolder:
  """Defines --distributed, for `distributed.initialize`."""
  return flags.DEFINE_string(
    "distributed", "off",
    "How processes find each other: off, auto, or HOST:PORT,PROCESSES,INDEX.",
  )  # fmt: skip


class Shape(NamedTuple):
  """The flags --size and --seconds."""

  size: flags.FlagHolder
  seconds: flags.FlagHolder

  def read(self) -> dict[str, Any]:
    """Returns `choose_shape`'s arguments; ValueError if --size is no pair."""
    texts = self.size.value
    if len(texts) not in (0, 2) or not all(x.isdigit() for x in texts):
      raise ValueError(
        f"--size={','.join(texts)}: expected height and width, as 352,640."
      )
    return {"size": tuple(map(int, texts)), "seconds": self.seconds.value}


def define_shape(clips: str) -> Shape:
  """Defines --size and --seconds, which of several shapes to take.

  Args:
    clips: whose shapes these are, for the help.
  """
  return Shape(
    flags.DEFINE_list(
      "size", [],
      f"Height and width in pixels, as 352,640, of {clips}; the first of them"
      " if unset.",
    ),
    flags.DEFINE_float(
      "seconds", None,
      f"Length in seconds of {clips}, to a tenth; the first of them if unset.",
    ),
  )  # fmt: skip

"""Start of a command: flags, and errors of one line without a traceback."""

import difflib
import errno
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from logging import LogRecord
from typing import Any, NamedTuple

from absl import app, flags, logging
from ml_collections import ConfigDict, FieldReference

from ccl_jax import bucket_errors, signals
from ccl_jax.config import FORMS, RENAMED, dotted, new_path

# The flags that this module defines are those of the command that asks, whose
# --help shows them.
flags.disclaim_key_flags()

# Name of a flag in earlier versions -> today's.
RENAMED_FLAGS = {
  "checkpoint": "workdir",
  "every": "all",
  "hlo": "hlo_output",
  "megabytes": "max_upload_mb",
  "out": "output",
  "part": "component",
  "queue": "max_queue",
  "seconds": "max_upload_seconds",
  "shard_size": "max_shard_size",
  "test": "num_test",
  "train": "num_train",
  "what": "program",
} | {  # Each key of the config's `sampling` section is a flag too.
  old.removeprefix("sampling."): new.removeprefix("sampling.")
  for old, new in RENAMED.items()
  if old.startswith("sampling.")
}

# Errors of the system that another try does not mend: of permissions, names,
# and disks that are full or read-only.
_LASTING = (
  errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT,
  errno.EFBIG, errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR,
  errno.ENOTEMPTY, errno.ENAMETOOLONG, errno.ELOOP,
)  # fmt: skip


class UserError(SystemExit):
  """Error that the user can fix; it ends the program with code 2.

  Launchers start a program again after any code but this one.
  """

  CODE = 2

  def __init__(self, message: str, code: int = CODE):
    super().__init__(f"error: {message}")
    self.code = code


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
    """Returns the arguments of `components.choose_shape`.

    Raises:
      ValueError: --size is no pair of numbers.
    """
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


def run(command: Callable[[], None], required: Sequence[str]) -> None:
  """Parses the flags and calls `command`.

  An error that the user can fix (a ValueError, an unknown or misspelt flag or
  config key, a place that cannot be written) ends the program with "error:
  ...", no traceback and code 2; that of a bucket that cannot be reached does
  likewise, with code 1. Ctrl-C and SIGTERM end it with the shell's codes for
  them, after what is half-written is removed.

  Args:
    required: names of the flags that must be set.
  """
  flags.mark_flags_as_required(list(required))

  def main(argv: list[str]) -> None:
    signals.handle()
    if not flags.FLAGS["verbosity"].present:
      logging.set_verbosity(logging.WARNING)  # Orbax logs each step of a save.
      logging.get_absl_handler().addFilter(_is_worth_a_line)
    try:
      if len(argv) > 1:
        raise ValueError(f"Unknown arguments {argv[1:]}: flags begin with --.")
      command()
    except Exception as error:
      if (shown := _as_user_error(error)) is None:
        raise
      raise shown from error

  try:
    app.run(main, flags_parser=parse_flags)
  except UserError as error:
    print(error, file=sys.stderr)
    raise
  except KeyboardInterrupt:
    print("interrupted", file=sys.stderr)
    signals.leave(128 + signal.SIGINT)
  except SystemExit as end:
    if isinstance(end.code, int) and end.code > 128:
      signals.leave(end.code)
    raise


def _as_user_error(error: Exception) -> UserError | None:
  """Returns the error of one line for an error, None if it has none."""
  if text := bucket_errors.describe(error):
    return UserError(text, 1 if bucket_errors.may_pass(error) else 2)
  if isinstance(error, ValueError | FloatingPointError):
    return UserError(str(error))
  if isinstance(error, OSError) and error.errno in _LASTING:
    place = "" if error.filename is None else f"'{error.filename}': "
    return UserError(f"{place}{error.strerror}")
  return None


def _is_worth_a_line(record: LogRecord) -> bool:
  """Returns False for errors that Orbax and gcsfs raise too.

  They log them in each thread that they pass, with a traceback. Nor is it news
  that Orbax does not log a size, at each copy of its emergency manager.
  """
  is_raised = any(name in record.pathname for name in ("orbax", "gcsfs"))
  is_copy = str(record.msg).startswith("Global object size logging disabled")
  return not is_copy and (record.levelname != "ERROR" or not is_raised)


def parse_flags(argv: Sequence[str]) -> list[str]:
  """Parses flags as absl does, with dashes or underscores in their names.

  Args:
    argv: the program's name and its arguments.

  Returns:
    The program's name and the arguments that are no flags.

  Raises:
    UserError: a flag or config override that is unknown, has an old name or a
      wrong value.
    SystemExit: after --help.
  """
  config = {}
  try:
    for argument in argv[1:]:
      _check_name(argument)
    config = _load_config(argv[1:])
    for argument in argv[1:] if config else ():
      _check_override(argument, config)
    return flags.FLAGS([_with_underscores(argument) for argument in argv])
  except SystemExit as shown:  # After --help, where absl ends with 1.
    raise SystemExit(0) from shown
  # ml_collections raises AttributeError and KeyError for unknown keys.
  except (
    flags.Error,
    AttributeError,
    KeyError,
    OSError,
    TypeError,
    ValueError,
  ) as error:
    raise UserError(_one_line(error, config)) from error


def _check_name(argument: str) -> None:
  """Checks that an argument is no flag or config override of an old name.

  Raises:
    ValueError: it is; the message has today's name.
  """
  flag = argument.partition("=")[0]
  name = flag[2:].replace("-", "_")
  if not flag.startswith("--") or name in flags.FLAGS:
    return
  negation = "no" if name.startswith("no") else ""  # --noX is X=False
  name = name.removeprefix(negation)
  if name.startswith("config."):
    path = new_path(name.removeprefix("config."))
    new, is_defined = f"config.{path}", path and "config" in flags.FLAGS
  else:
    new = RENAMED_FLAGS.get(name, "")
    is_defined = new in flags.FLAGS and name not in flags.FLAGS
  if is_defined:
    form = FORMS.get(new.removeprefix("config."))
    form = f" It is written --{new}={form}." if form else ""
    raise ValueError(f"{flag} is called --{negation}{new} now.{form}")


def _load_config(arguments: Sequence[str]) -> dict[str, Any]:
  """Returns dotted key -> value of --config, {} if the command has none."""
  if "config" not in flags.FLAGS:
    return {}
  for flag, after in zip(arguments, [*arguments[1:], ""], strict=True):
    if match := re.fullmatch(r"--?config(=.*)?", flag, re.S):
      file = match[1][1:] if match[1] else after
      config = flags.FLAGS["config"].parser.parse(file)
      # Of a file that cannot be read, any attribute raises OSError.
      return dotted(_values(config)) if hasattr(config, "to_dict") else {}
  return {}


def _values(config: ConfigDict) -> dict[str, Any]:
  """Returns a config's values; "VALUE" of those that are None until set."""
  values = config.to_dict()
  for key, x in config.items(preserve_field_references=True):
    if isinstance(x, ConfigDict):
      values[key] = _values(x)
    elif isinstance(x, FieldReference) and x.get() is None:
      values[key] = "VALUE"
  return values


def _check_override(argument: str, config: Mapping[str, Any]) -> None:
  """Checks that an argument overrides a key that the config has, if any.

  ml_collections' own messages name neither the key nor its neighbours.

  Raises:
    ValueError: another name; the message has the nearest, or the section's.
  """
  match = re.match(r"--?(?:no)?config\.([^=\[]+)", argument)
  if not match or config.get(match[1]) is not None:
    return
  if match[1] in config:
    raise ValueError(
      f"config.{match[1]} is None and of no type that a flag could have: set it"
      " in a copy of the config file"
    )
  key, name = match[1], match[1].replace("-", "_")
  inside = [each for each in config if each.startswith(f"{name}.")]
  if inside:
    raise ValueError(
      f"config.{key} is a section: set its keys, as in"
      f" --config.{inside[0]}={_form(inside[0], config)}"
    )
  near = [name] if name in config else []
  near += difflib.get_close_matches(name, config, n=1)
  hint = "its sections and keys are in configs/README.md"
  if near:
    hint = f"did you mean --config.{near[0]}={_form(near[0], config)} ?"
  raise ValueError(f"There is no config key '{key}': {hint}")


def _form(key: str, config: Mapping[str, Any]) -> str:
  """Returns how a key is written, by the form or the value that it has."""
  return FORMS.get(key) or str(config[key]) or "..."


def _with_underscores(argument: str) -> str:
  """Returns --a-b=c as --a_b=c, if that is the flag's name."""
  flag, equals, value = argument.partition("=")
  name = flag[2:].replace("-", "_")
  if not flag.startswith("--") or flag[2:] in flags.FLAGS:
    return argument
  is_flag = name.removeprefix("no") in flags.FLAGS
  return f"--{name}{equals}{value}" if is_flag else argument


def _one_line(error: Exception, config: Mapping[str, Any]) -> str:
  """Returns the message without the traceback or repr of ml_collections.

  Args:
    config: dotted keys; the message on a value of one shows how it is written.
  """
  text = str(error).strip()
  if isinstance(error, OSError):  # of the config's file, after the places tried
    return f"--config: {text.splitlines()[-1].strip()}"
  match = re.match(r"flag --config\.([^=\[]+)=", text)
  if match and match[1] in config:
    key = match[1]
    return f"{text}. It is written like --config.{key}={_form(key, config)}"
  if "Traceback" in text:
    return text.splitlines()[-1]
  return text.replace("\\n", " ").replace("\\'", "")

"""Flags and config overrides: spelling, former names, messages."""

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, FieldReference

from ccl_jax.command.errors import UserError
from ccl_jax.config import FORMS, RENAMED, dotted, new_path

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


def parse_flags(argv: Sequence[str]) -> list[str]:
  """Parses flags as absl does, with dashes or underscores in their names.

  Args:
    argv: the program's name and its arguments.

  Returns:
    The program's name and the arguments that are not flags.

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
  """Raises ValueError with today's name of a flag or config key, if renamed."""
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
  """Raises ValueError if an argument overrides no key that the config has.

  ml_collections' own messages name neither the key nor its neighbours.
  """
  match = re.match(r"--?(?:no)?config\.([^=\[]+)", argument)
  if not match or config.get(match[1]) is not None:
    return
  key, name = match[1], match[1].replace("-", "_")
  if key in config:
    raise ValueError(
      f"config.{key} is None and of no type that a flag could have: set it in a"
      " copy of the config file"
    )
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

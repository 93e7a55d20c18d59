"""How a command starts and fails: with one line that says what is wrong."""

from collections.abc import Callable, Sequence

from absl import app, flags, logging


def run(command: Callable[[], None], required: Sequence[str]) -> None:
  """Parses the flags and calls `command`.

  What the user can mend (a ValueError, an unknown or mistyped flag or config
  key) ends the program with "error: ..." and no trace.

  Args:
    required: names of flags that must be given.
  """
  flags.mark_flags_as_required(list(required))

  def main(argv: list[str]) -> None:
    if not flags.FLAGS["verbosity"].present:
      logging.set_verbosity(logging.WARNING)  # Orbax tells every step of a save
    try:
      if len(argv) > 1:
        raise ValueError(f"Unknown arguments {argv[1:]}: flags begin with --.")
      command()
    except (ValueError, FloatingPointError) as error:
      raise SystemExit(f"error: {error}") from error

  app.run(main, flags_parser=_parse)


def _parse(argv: list[str]) -> list[str]:
  """Like absl's parser, for config overrides too."""
  try:
    return flags.FLAGS([_spelled(argument) for argument in argv])
  # ml_collections raises AttributeError and KeyError for unknown keys.
  except (
    flags.Error,
    AttributeError,
    KeyError,
    TypeError,
    ValueError,
  ) as error:
    raise SystemExit(f"error: {_readable(error)}") from error


def _spelled(argument: str) -> str:
  """--attention-maps as --attention_maps, where that is the flag there is."""
  name, equals, value = argument.partition("=")
  other = "--" + name[2:].replace("-", "_")
  if not name.startswith("--") or name[2:] in flags.FLAGS:
    return argument
  is_flag = other[2:].removeprefix("no") in flags.FLAGS
  return f"{other}{equals}{value}" if is_flag else argument


def _readable(error: Exception) -> str:
  """The message without the trace or the repr that ml_collections puts in."""
  text = str(error).strip()
  if "Traceback" in text:
    return text.splitlines()[-1]
  return text.replace("\\n", " ").replace("\\'", "")

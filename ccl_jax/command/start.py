"""Start and end of a command."""

import signal
import sys
from collections.abc import Callable, Sequence
from logging import LogRecord

from absl import app, flags, logging

from ccl_jax.command.errors import UserError, as_user_error
from ccl_jax.command.parsing import parse_flags
from ccl_jax.processes import signals


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
      logging.get_absl_handler().addFilter(_should_log)
    try:
      if len(argv) > 1:
        raise ValueError(f"Unknown arguments {argv[1:]}: flags begin with --.")
      command()
    except Exception as error:
      if (shown := as_user_error(error)) is None:
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


def _should_log(record: LogRecord) -> bool:
  """Returns False for errors that Orbax and gcsfs log beside raising them.

  Also for the notice of Orbax's emergency manager that sizes are not logged.
  """
  is_raised = any(name in record.pathname for name in ("orbax", "gcsfs"))
  is_copy = str(record.msg).startswith("Global object size logging disabled")
  return not is_copy and (record.levelname != "ERROR" or not is_raised)

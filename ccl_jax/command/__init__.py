"""Start of a command: flags, and errors of one line without a traceback."""

from ccl_jax.command.errors import UserError
from ccl_jax.command.shared_flags import (
  define_distributed,
  define_shape,
  define_step,
)
from ccl_jax.command.start import run

__all__ = [
  "UserError",
  "define_distributed",
  "define_shape",
  "define_step",
  "run",
]

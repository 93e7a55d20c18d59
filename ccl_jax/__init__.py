"""Cross-Modal Context Learning: joint generation of video and sound, in JAX."""

import signal
import sys
from typing import Any

# A command, `python -m ccl_jax.NAME`, imports for seconds: until `command.run`
# a Ctrl-C ends it without a traceback. If it ignores Ctrl-C, this stays so.
if sys.argv[:1] == ["-m"] and (
  signal.getsignal(signal.SIGINT) == signal.default_int_handler
):
  signal.signal(signal.SIGINT, signal.SIG_DFL)


def __getattr__(name: str) -> Any:
  """Imports `Pipeline` when `from ccl_jax import Pipeline` asks for it."""
  if name == "Pipeline":
    from ccl_jax.generation.pipeline import Pipeline

    return Pipeline
  raise AttributeError(f"module 'ccl_jax' has no attribute '{name}'")

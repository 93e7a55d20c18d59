"""Cross-Modal Context Learning: joint generation of video and sound, in JAX."""

from typing import Any


def __getattr__(name: str) -> Any:
  """Imports `Pipeline` when `from ccl_jax import Pipeline` asks for it."""
  if name == "Pipeline":
    from ccl_jax.generation.pipeline import Pipeline

    return Pipeline
  raise AttributeError(f"module 'ccl_jax' has no attribute '{name}'")

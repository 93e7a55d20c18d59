"""Small training examples of random latents."""

import jax
import jax.numpy as jnp

from ccl_jax.diffusion.objective import Objective, make_training_example
from ccl_jax.diffusion.tasks import TASK_NAMES

B, F, M = 8, 3, 6


def batch(b=B, **changes):
  keys = jax.random.split(jax.random.key(7), 3)
  return {
    "video": jax.random.normal(keys[0], (B, F, 2, 2, 4))[:b],
    "audio": jax.random.normal(keys[1], (B, M, 3))[:b],
    "text": jax.random.normal(keys[2], (B, 5, 4))[:b],
    "null_text": jnp.zeros((5, 4)),
    "has_video": jnp.ones(b, bool),
    "has_audio": jnp.ones(b, bool),
  } | changes


def example(settings, data=None):
  data = batch() if data is None else data
  key = jax.random.key(0)
  return make_training_example(key, data, settings)


def only(name):
  """Settings that draw one task always."""
  probabilities = tuple(float(name == task) for task in TASK_NAMES)
  return Objective(probabilities=probabilities)

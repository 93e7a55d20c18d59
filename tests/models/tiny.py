"""A joint model small enough to compile in seconds, and inputs for it."""

import jax
import jax.numpy as jnp

from ccl_jax import trees
from ccl_jax.diffusion import tasks

SETTINGS = dict(
  num_layers=2,
  text_width=6,
  dtype="float32",
  video=dict(width=24, ffn=32, heads=1, channels=3, patch=2, frequency_dim=8),
  audio=dict(
    width=12, ffn=16, heads=1, channels=2, tokens_per_frame=2, frequency_dim=8
  ),
  fusion=dict(kind="cca", audio_context=2, video_context=3),
)
B, F, H, W, L = 4, 3, 4, 6, 5


def randomize(params, seed=0):
  """Every leaf random and not near zero, so that a missing term shows."""
  leaves = trees.flatten(params)
  keys = jax.random.split(jax.random.key(seed), len(leaves))
  noisy = {
    path: 0.3 * jax.random.normal(key, x.shape) + path.endswith("/scale")
    for key, (path, x) in zip(keys, leaves.items(), strict=True)
  }
  return trees.unflatten(noisy)


def inputs(seed=0, b=B):
  """(state, t, text, route): one sample of each training task."""
  keys = jax.random.split(jax.random.key(seed), 4)
  state = {
    "video": jax.random.normal(keys[0], (b, F, H, W, 3)),
    "audio": jax.random.normal(keys[1], (b, F * 2, 2)),
  }
  ones = jnp.ones(b, bool)
  route = tasks.route_of(jnp.arange(b) % 4, ones, ones)
  t = jax.random.uniform(keys[2], (b,))
  times = {s: jnp.where(route.is_generated(s), t, 0.0) for s in state}
  return state, times, jax.random.normal(keys[3], (b, L, 6)), route

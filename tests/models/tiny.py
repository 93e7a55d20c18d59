"""A joint model small enough to compile in seconds, and inputs for it."""

import jax
import jax.numpy as jnp
import numpy as np

from ccl_jax.diffusion import tasks
from tests.codecs.draw import draw

SETTINGS = dict(
  num_layers=2,
  text_width=6,
  dtype="float32",
  video=dict(width=24, ffn=32, heads=1, channels=3, patch=2, frequency_dim=8),
  audio=dict(
    width=12, ffn=16, heads=1, channels=2, tokens_per_frame=2, frequency_dim=8
  ),
  fusion=dict(kind="cca", num_audio_lct=2, num_video_lct=3),
)
B, F, H, W, L = 4, 3, 4, 6, 5


def randomize(params, seed=0):
  """Every leaf random and not near zero, so that a missing term shows."""
  return jax.tree.map(jnp.asarray, draw(params, seed))


def inputs(seed=0, b=B):
  """(state, t, text, route): one sample of each training task."""
  rng = np.random.default_rng(seed)  # which compiles nothing

  def normal(*shape):
    return jnp.asarray(rng.standard_normal(shape, np.float32))

  state = {"video": normal(b, F, H, W, 3), "audio": normal(b, F * 2, 2)}
  ones = jnp.ones(b, bool)
  route = tasks.route_of(jnp.arange(b) % 4, ones, ones)
  t = jnp.asarray(np.linspace(0.1, 0.9, b, dtype=np.float32))
  times = {s: jnp.where(route.is_generated[s], t, 0.0) for s in state}
  return state, times, normal(b, L, 6), route

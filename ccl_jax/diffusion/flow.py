"""Rectified flow, for one array of any rank.

    x_t = (1 - t) x0 + t noise                 t in [0, 1], 1 is pure noise
    v   = d x_t / dt = noise - x0              what the model predicts
    t   = shift(sigmoid(mean + std normal))    shift(t) = s t / (1 + (s - 1) t)

*Clean* latents are given, not generated: their t is 0, hence x_t = x0, and they
have no loss. A stream's time is (b,), or (b, f, 1) if its clean mask differs
along its second axis (the first frame of an image-to-video sample): a time per
frame, the same for every token of the frame.

Everything random of sample i is drawn from fold_in(key, i), so it does not
depend on the rest of the batch. Sources: Liu et al. 2022 (arXiv 2209.03003);
logit-normal times and the shift, Esser et al. 2024 (arXiv 2403.03206).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Key

from ccl_jax.array_types import STREAMS, Array, Bool, Float, State, expand

# (state, t of each stream, condition) -> velocity of each stream.
Velocity = Callable[[State, State, Any], State]


def interpolate(
  x0: Float[Array, " b *dims"],
  noise: Float[Array, " b *dims"],
  t: Float[Array, " b *steps"],
) -> Float[Array, " b *dims"]:
  """Returns x_t = (1 - t) x0 + t noise, for times (b,) or (b, f, 1)."""
  t = expand(t, x0.ndim)
  return (1 - t) * x0 + t * noise


def shift_time(
  t: Float[Array | np.ndarray, "*dims"], shift: float
) -> Float[Array | np.ndarray, "*dims"]:
  """Returns s t / (1 + (s - 1) t): towards noise if s > 1; keeps 0 and 1."""
  return shift * t / (1 + (shift - 1) * t)


def shift_factors(
  shapes: Mapping[str, Sequence[int]], clip: Sequence[int]
) -> dict[str, float]:
  """Returns the factor of each stream's shift, sqrt(n / n0).

  Args:
    shapes: of the latents, (f, h, w, c) of the video; n = f h w, for sound f.
    clip: frames, y and x pixels of the clip with n0 latents.
  """
  f, h, w = shapes["video"][:3]
  f0, h0, w0 = 1 + (clip[0] - 1) // 4, clip[1] // 8, clip[2] // 8
  ratios = {"video": f * h * w / (f0 * h0 * w0), "audio": f / f0}
  return {stream: math.sqrt(ratio) for stream, ratio in ratios.items()}


def sample_time(
  key: Key[Array, ""], shape: tuple[int, ...], mean: float, std: float
) -> Float[Array, " *dims"]:
  """Draws logit-normal times in (0, 1): sigmoid(mean + std normal)."""
  return jax.nn.sigmoid(mean + std * jax.random.normal(key, shape))


def mask_time(
  t: Float[Array, " b"], clean: Bool[Array, " b steps *ones"]
) -> Float[Array, " b"] | Float[Array, "b steps 1"]:
  """Returns the time of a stream: 0 where its latents are `clean`, else t.

  It is (b,) for a mask per sample, (b, 1, ...), and (b, steps, 1) for one along
  the second axis of the latents, (b, steps, 1, ...).
  """
  b, steps = clean.shape[:2]
  if steps == 1:
    return jnp.where(clean.reshape(b), 0.0, t)
  return jnp.where(clean.reshape(b, steps, 1), 0.0, t[:, None, None])


def mse(
  prediction: Float[Array, " b *dims"],
  target: Float[Array, " b *dims"],
  mask: Bool[Array, " b *ones"],
) -> Float[Array, " b"]:
  """Returns each sample's mean squared error where `mask`; 0 if it is empty."""
  mask = jnp.broadcast_to(mask, target.shape)
  axes = tuple(range(1, target.ndim))
  error = jnp.where(mask, prediction.astype(jnp.float32) - target, 0.0)
  count = jnp.maximum(jnp.sum(mask, axes), 1)
  return jnp.sum(error**2, axes) / count.astype(jnp.float32)


def sample_keys(key: Key[Array, ""], batch: int) -> Key[Array, " b"]:
  """Returns one key per sample: fold_in(key, i)."""
  return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(batch))


def draw_noise(
  keys: Key[Array, " b"], shapes: dict[str, tuple[int, ...]]
) -> State:
  """Draws a standard normal state (b, *shape) per stream, one key per item.

  An item's noise depends on its key alone: not on the batch it is in, nor on
  which other stream is drawn with it.

  Args:
    shapes: of one item of each stream, (f, h, w, c) and (m, c).
  """

  def draw(key, stream):
    key = jax.random.fold_in(key, STREAMS.index(stream))
    return jax.random.normal(key, shapes[stream])

  return {s: jax.vmap(lambda key, s=s: draw(key, s))(keys) for s in shapes}

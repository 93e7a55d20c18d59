"""Windowed attention, dense per frame: exact, in plain jax.

With queries reshaped to frames, frame i reads the keys

    [context | frame i - radius | ... | frame i + radius]

placed side by side by shifting and concatenating (no gather). Beyond both ends,
the first and the last frame are repeated (padding with zeros crashes libtpu
0.0.51) with an id that no query has. Memory is O(n keys_per_query) and never
O(n m). The context keys are copied to every frame, so that one softmax covers
both.

Frames are a batch axis throughout, followed by the axis of the heads, so both
products are plain batched products: sharding frames needs a halo of `radius`
key frames and nothing else.
"""

import einops
import jax
import jax.numpy as jnp

from ccl_jax.array_types import Array, Float
from ccl_jax.attention.mask import Mask, Window
from ccl_jax.attention.merging import Part
from ccl_jax.attention.reference import UNSEEN


def attend(
  q: Float[Array, "b n k e"],
  k: Float[Array, "b m k e"],
  v: Float[Array, "b m k e"],
  mask: Mask,
  with_lse: bool = False,
) -> Float[Array, "b n k e"] | Part:
  """Computes attention for `Window` masks, frame by frame.

  Raises:
    NotImplementedError: another pattern, or queries and keys that are not
      the same number of complete frames.
  """
  logits, v = _logits(q, k, v, mask)
  lse = jax.nn.logsumexp(logits, axis=-1) if with_lse else None
  weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
  out = jnp.einsum(
    "bfksw,bfkwe->bfkse", weights, v, preferred_element_type=jnp.float32
  )
  out = einops.rearrange(out.astype(q.dtype), "b f k s e -> b (f s) k e")
  if lse is None:
    return out
  return out, einops.rearrange(lse, "b f k s -> b (f s) k")


def _logits(q, k, v, mask: Mask):
  """Returns logits (b, f, k, s, w) and the values (b, f, k, w, e) of each."""
  window, frames = mask.pattern, _count_frames(mask, q.shape[1], k.shape[1])
  q_ids, k_ids = mask.ids(q.shape[1], k.shape[1])
  q_ids = einops.rearrange(q_ids, "b (f s) -> b f 1 s 1", f=frames)
  k_ids = _gather_keys(k_ids[..., None, None], window, frames, beyond=-1)
  k_ids = einops.rearrange(k_ids, "b f 1 w 1 -> b f 1 1 w")
  k = _gather_keys(k, window, frames)  # b f k w e
  v = _gather_keys(v, window, frames)
  split = einops.rearrange(q, "b (f s) k e -> b f k s e", f=frames)

  logits = jnp.einsum(
    "bfkse,bfkwe->bfksw", split, k, preferred_element_type=jnp.float32
  )
  return jnp.where(q_ids == k_ids, logits * q.shape[-1] ** -0.5, UNSEEN), v


def _count_frames(mask: Mask, n: int, m: int) -> int:
  """Returns the number of frames of both; NotImplementedError if unequal."""
  window = mask.pattern
  if not isinstance(window, Window):
    raise NotImplementedError(f"framed attention needs a Window, got {window}")
  frames = n // window.q_per_frame
  expected = (
    window.q_per_frame * frames,
    window.num_context + window.k_per_frame * frames,
  )
  if (n, m) != expected:
    raise NotImplementedError(
      f"framed attention needs the same number of complete frames, got {n}"
      f" queries and {m} keys for {window}"
    )
  return frames


def _gather_keys(x, window: Window, frames: int, beyond: int | None = None):
  """Gathers (b, m, k, e) to (b, f, k, w, e): the w keys that a frame may see.

  Args:
    beyond: value beyond both ends; None repeats the end frames.
  """
  context, x = jnp.split(x, [window.num_context], axis=1)
  context = einops.repeat(context, "b j k e -> b f k j e", f=frames)
  # Heads go before tokens here, where each key is stored once: cheaper.
  x = einops.rearrange(x, "b (f r) k e -> b f k r e", f=frames)
  ends = [(0, 0), (window.radius, window.radius), (0, 0), (0, 0), (0, 0)]
  if beyond is None:
    x = jnp.pad(x, ends, mode="edge")
  else:
    x = jnp.pad(x, ends, constant_values=beyond)
  shifted = [x[:, i : i + frames] for i in range(2 * window.radius + 1)]
  return jnp.concatenate([context, *shifted], axis=3)

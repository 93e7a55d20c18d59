"""The definition of attention: dense, any mask, float32 inside.

out = softmax(q k^T / sqrt(e) where seen, else -1e30) v
"""

import jax
import jax.numpy as jnp

from ccl_jax.attention.mask import Mask
from ccl_jax.types import Array, Float

# Finite, so that a row that sees nothing is a mean and not a NaN.
UNSEEN = -1e30


def attend(
  q: Float[Array, "b n k e"],
  k: Float[Array, "b m k e"],
  v: Float[Array, "b m k e"],
  mask: Mask,
  platform: str,
) -> Float[Array, "b n k e"]:
  """Attention by its definition, on every platform; O(n m) memory."""
  del platform
  logits = jnp.einsum("bnke,bmke->bknm", q, k, preferred_element_type="float32")
  seen = mask.dense(q.shape[1], k.shape[1])[:, None]
  logits = jnp.where(seen, logits * q.shape[-1] ** -0.5, UNSEEN)
  weights = jax.nn.softmax(logits, axis=-1)
  out = jnp.einsum("bknm,bmke->bnke", weights, v.astype(jnp.float32))
  return out.astype(q.dtype)

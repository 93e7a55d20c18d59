"""Attention over two disjoint sets of keys, as one softmax of both.

With out_i and lse_i, attention to a set and the log-sum-exp of its logits,

    out = w out_1 + (1 - w) out_2,   w = sigmoid(lse_1 - lse_2)            (1)

is attention to both sets. Gradients flow through lse, which every backend here
differentiates; that of `jax.nn.dot_product_attention` is a constant.
"""

import jax
import jax.numpy as jnp

from ccl_jax.array_types import Array, Float

Part = tuple[Float[Array, "b n k e"], Float[Array, "b n k"]]


def merge(first: Part, second: Part) -> Float[Array, "b n k e"]:
  """Returns eq. 1, in the dtype of the outputs."""
  (out_1, lse_1), (out_2, lse_2) = first, second
  w = jax.nn.sigmoid(lse_1 - lse_2)[..., None]
  merged = w * out_1.astype(jnp.float32) + (1 - w) * out_2.astype(jnp.float32)
  return merged.astype(out_1.dtype)

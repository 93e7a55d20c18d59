"""Attention over two disjoint sets of keys, as one softmax of both.

With out_i and lse_i, attention to a set and the log-sum-exp of its logits,

    out = w out_1 + (1 - w) out_2,   w = sigmoid(lse_1 - lse_2)            (1)

is attention to both sets. Gradients flow through lse, which every backend here
differentiates; that of `jax.nn.dot_product_attention` is a constant.
"""

import jax
import jax.numpy as jnp

from ccl_jax.array_types import Array, Float
from ccl_jax.attention import api, reference, splash, windowed
from ccl_jax.attention.mask import Mask
from ccl_jax.attention.target import CompileTarget

Part = tuple[Float[Array, "b n k e"], Float[Array, "b n k"]]
_FULL = Mask()


BACKENDS = {
  "reference": api.named(reference.attend_with_lse),
  "framed": api.named(windowed.attend_with_lse),
  "splash": splash.attend_with_lse,
}


def attend_with_lse(
  q: Float[Array, "b n k e"],
  k: Float[Array, "b m k e"],
  v: Float[Array, "b m k e"],
  mask: Mask = _FULL,
  *,
  backend: str | None = None,
  target: CompileTarget | None = None,
  name: str | None = None,
) -> Part:
  """Returns `attend` and each query's log-sum-exp; arguments are the same.

  If a query sees no key, its log-sum-exp is about -1e30, so it has no weight in
  eq. 1.

  Raises:
    ValueError: as `attend` does; the cuDNN backend has no log-sum-exp.
  """
  return api.dispatch(BACKENDS, q, k, v, mask, backend, target, name)


def merge(first: Part, second: Part) -> Float[Array, "b n k e"]:
  """Returns eq. 1, in the dtype of the outputs."""
  (out_1, lse_1), (out_2, lse_2) = first, second
  w = jax.nn.sigmoid(lse_1 - lse_2)[..., None]
  merged = w * out_1.astype(jnp.float32) + (1 - w) * out_2.astype(jnp.float32)
  return merged.astype(out_1.dtype)

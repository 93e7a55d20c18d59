"""The transformer block of the encoders of images and of speech."""

from typing import Any

import einops
from flax import nnx

from ccl_jax.array_types import Array, Float
from ccl_jax.attention import attend
from ccl_jax.ops.norms import LayerNorm


class Block(nnx.Module):
  """Self-attention and MLP, with norms before them or after their sums.

    before    x <- x + attend(norm(x)),   x <- x + MLP(norm(x))           (1)
    after     x <- norm(x + attend(x)),   x <- norm(x + MLP(x))           (2)

  Args:
    config: has the sizes `width`, `ffn` and `heads`.
    epsilon: of the norms.
    is_pre_norm: (1), not (2).
    options: of the linear layers; they cast their inputs to `dtype`.
  """

  def __init__(
    self,
    config: Any,
    rngs: nnx.Rngs,
    epsilon: float,
    is_pre_norm: bool = True,
    **options: Any,
  ):
    def linear(d_in, d_out):
      return nnx.Linear(d_in, d_out, rngs=rngs, **options)

    d, self.heads, self.is_pre_norm = config.width, config.heads, is_pre_norm
    self.attention_norm = LayerNorm(d, epsilon)
    self.q, self.k, self.v, self.o = (linear(d, d) for _ in "qkvo")
    self.mlp_norm = LayerNorm(d, epsilon)
    self.up, self.down = linear(d, config.ffn), linear(config.ffn, d)

  def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
    if self.is_pre_norm:
      x = x + self.attend(self.attention_norm(x))
      return x + self.mlp(self.mlp_norm(x))
    x = self.attention_norm(x + self.attend(x))
    return self.mlp_norm(x + self.mlp(x))

  def attend(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
    """Returns what self-attention adds."""
    q, k, v = (
      einops.rearrange(f(x), "b n (k e) -> b n k e", k=self.heads)
      for f in (self.q, self.k, self.v)
    )
    return self.o(einops.rearrange(attend(q, k, v), "b n k e -> b n (k e)"))

  def mlp(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
    """Returns what the MLP adds, with an exact gelu."""
    return self.down(nnx.gelu(self.up(x), approximate=False))

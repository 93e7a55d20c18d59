"""Trainable adapters of frozen blocks; at first they add nothing."""

import einops
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ccl_jax.array_types import Array, Float
from ccl_jax.models import layers, qk_rope, rope
from ccl_jax.models.block import flatten
from ccl_jax.models.fusion.base import FusionContext
from ccl_jax.ops.norms import LayerNorm


class TemporalAttention(nnx.Module):
  """Attention of each token to those at its place in all frames."""

  def __init__(self, d: int, head_size: int, *, rngs, dtype):
    self.norm = LayerNorm(d)
    self.attention = layers.AttentionProjections(
      d, d, head_size, rngs=rngs, dtype=dtype, out_init=layers.zeros
    )

  def __call__(
    self, x: Float[Array, "b f s d"], shared: FusionContext
  ) -> Float[Array, "b f s d"]:
    _, f, s, _ = x.shape
    y, p = flatten(self.norm(x)), self.attention
    angles = rope.sequence_angles(np.arange(f), p.head_size)
    angles = einops.repeat(angles, "f half -> (f s) half", s=s)
    project = qk_rope.projector(shared.attention.layout, "video")
    q = project(p.q, p.norm_q, y, p.head_size, angles)
    k, v = rope.rotate(p.key(y), angles), p.value(y)
    q, k, v = (
      einops.rearrange(a, "b (f s) k e -> b f s k e", f=f) for a in (q, k, v)
    )
    # f x f for each place: too few for a kernel.
    logits = jnp.einsum(
      "bfske,bgske->bskfg", q, k, preferred_element_type=jnp.float32
    )
    hidden = np.arange(f) >= shared.frames
    logits = jnp.where(hidden[None, None, None, None], -1e30, logits)
    weights = jax.nn.softmax(logits / p.head_size**0.5).astype(v.dtype)
    out = jnp.einsum("bskfg,bgske->bfske", weights, v)
    out = einops.rearrange(out, "b f s k e -> b (f s) k e")
    return p.out(out).reshape(x.shape)


class Adapter(nnx.Module):
  """A bottleneck whose output starts at zero."""

  def __init__(self, d: int, hidden: int, *, rngs, dtype):
    self.norm = LayerNorm(d)
    self.mlp = layers.MLP(
      d, hidden, d, activation="gelu_tanh", out_init=layers.zeros, rngs=rngs,
      dtype=dtype,
    )  # fmt: skip

  def __call__(self, x: Float[Array, " *b d"]) -> Float[Array, " *b d"]:
    return self.mlp(self.norm(x))

  def after(self, block: nnx.Module) -> nnx.Module:
    """Returns a block whose self-attention ends with this."""
    block.self_attention.o = nnx.Sequential(block.self_attention.o, self)
    return block


class QKVLoRA(nnx.Module):
  """LoRA of the queries, keys and values of a block, with alpha = rank."""

  def __init__(self, d: int, rank: int, *, rngs, dtype):
    self.q, self.k, self.v = (
      layers.LoRA(d, d, rank, 1.0, rngs=rngs, dtype=dtype) for _ in "qkv"
    )

  def added_to(self, block: nnx.Module) -> nnx.Module:
    """Returns a block like this one, with LoRA."""
    block = nnx.merge(*nnx.split(block))
    for name in "qkv":
      linear, own = getattr(block.self_attention, name), getattr(self, name)
      linear.lora = LoRASum(linear.lora, own) if linear.lora else own
    return block


class LoRASum(nnx.Module):
  """Two LoRA of one kernel, the block's own and another."""

  def __init__(self, first: layers.LoRA, second: layers.LoRA):
    self.first, self.second = first, second

  def __call__(self, x: Float[Array, " *b d"]) -> Float[Array, " *b d"]:
    return self.first(x) + self.second(x)

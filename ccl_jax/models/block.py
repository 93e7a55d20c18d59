"""One transformer block of one stream, as in Wan2.1, with room for a fusion.

    x += g1 * o(attention(rope(q), rope(k), v)),  q, k, v of mod(norm x, b1, s1)
    x += text_attention(layer_norm(x), text)           no gate, no modulation
    x += fusion.exchange(...)                          outside: `dual_block.py`
    x += g2 * mlp(mod(norm x, b2, s2))

with mod(y, b, s) = y (1 + s) + b and (b1, s1, g1, b2, s2, g2) a learned table
plus the projection of the time embedding. Activations are (b, f, s, d): s
tokens in each of f frames, the same for both streams.
"""

from collections.abc import Callable
from typing import NamedTuple

import einops
import jax
import jax.numpy as jnp
from flax import nnx

from ccl_jax.array_types import Array, Float
from ccl_jax.models import layers
from ccl_jax.ops.norms import LayerNorm, expand_like


class StreamOps(NamedTuple):
  """Operations of a stream's blocks that depend on the chip and the mesh.

  Attributes:
    attend: attend(q, k, v), the cross-attention of `Attention`.
    modulate: of `ada_norm.modulator`.
    project: of `qk_rope.projector`.
  """

  attend: Callable[..., Array]
  modulate: Callable[..., Array]
  project: Callable[..., Array]


class Modulation(NamedTuple):
  """Rows of the modulation table, (b, f | 1, s | 1, d) in float32 each."""

  shift: Float[Array, " b #f #s d"]
  scale: Float[Array, " b #f #s d"]
  gate: Float[Array, " b #f #s d"]

  def apply(
    self, x: Float[Array, "b f s d"], ops: StreamOps
  ) -> Float[Array, "b f s d"]:
    """Normalises and modulates x."""
    return ops.modulate(x, self.shift, self.scale)

  def add(
    self, x: Float[Array, "b f s d"], update: Float[Array, "b f s d"]
  ) -> Float[Array, "b f s d"]:
    """Adds the gated residual in float32."""
    x32, update = x.astype(jnp.float32), update.astype(jnp.float32)
    return (x32 + update * self.gate).astype(x.dtype)


def flatten(x: Float[Array, "b f s d"]) -> Float[Array, "b n d"]:
  """Joins frames and tokens per frame into one axis, n = f * s."""
  return einops.rearrange(x, "b f s d -> b (f s) d")


class CrossAttentionInputs(NamedTuple):
  """Text and image tokens for cross-attention, in the width of the stream.

  An image has its own keys and values for the text's queries. Both attentions
  are added before the output projection that they share.
  """

  text: Float[Array, "b l d"]
  image: Float[Array, "b i d"] | None = None


class Block(nnx.Module):
  """A transformer block of width d.

  Args:
    has_image: whether it can read tokens of an image.
  """

  def __init__(
    self, d: int, d_ffn: int, head_size: int, *, rngs, dtype,
    has_image: bool = False,
  ):  # fmt: skip
    table = jax.random.normal(rngs.params(), (6, d)) / d**0.5
    self.modulation = nnx.Param(table)
    options = dict(rngs=rngs, dtype=dtype)
    sizes = d, d, head_size
    self.self_attention = layers.AttentionProjections(*sizes, **options)
    self.text_norm = LayerNorm(d)
    self.text_attention = layers.AttentionProjections(*sizes, **options)
    self.ffn = layers.MLP(d, d_ffn, d, activation="gelu_tanh", **options)
    self.image = layers.ExtraKV(*sizes, **options) if has_image else None

  def modulate(
    self, time: Float[Array, " b #f #s 6 d"]
  ) -> tuple[Modulation, Modulation]:
    """Returns the rows for self-attention and FFN, from the projected time."""
    rows = expand_like(self.modulation[...], time) + time
    parts = [rows[..., i, :] for i in range(6)]
    return Modulation(*parts[:3]), Modulation(*parts[3:])

  def qkv(
    self,
    x: Float[Array, "b f s d"],
    modulation: Modulation,
    angles: Float[Array, "n half"],
    ops: StreamOps,
  ) -> tuple[Float[Array, "b n k e"], ...]:
    """Returns rotated queries and keys, and values, of self-attention."""
    y, p = flatten(modulation.apply(x, ops)), self.self_attention
    return (
      ops.project(p.q, p.norm_q, y, p.head_size, angles),
      ops.project(p.k, p.norm_k, y, p.head_size, angles),
      p.value(y),
    )

  def add_attended(
    self,
    x: Float[Array, "b f s d"],
    attended: Float[Array, "b n k e"],
    modulation: Modulation,
  ) -> Float[Array, "b f s d"]:
    """Adds the residual of self-attention."""
    update = self.self_attention.out(attended).reshape(x.shape)
    return modulation.add(x, update)

  def add_text(
    self,
    x: Float[Array, "b f s d"],
    prompt: CrossAttentionInputs,
    ops: StreamOps,
  ) -> Float[Array, "b f s d"]:
    """Adds cross-attention to text, and to an image.

    Padding is not masked, as in Wan.
    """
    p = self.text_attention
    y = flatten(self.text_norm(x))
    query = ops.project(p.q, p.norm_q, y, p.head_size)
    attended = ops.attend(query, p.key(prompt.text), p.value(prompt.text))
    if prompt.image is not None:
      attended += ops.attend(query, *self.image(prompt.image))
    return x + p.out(attended).reshape(x.shape)

  def add_ffn(
    self, x: Float[Array, "b f s d"], modulation: Modulation, ops: StreamOps
  ) -> Float[Array, "b f s d"]:
    """Adds the modulated and gated feed-forward network."""
    return modulation.add(x, self.ffn(modulation.apply(x, ops)))

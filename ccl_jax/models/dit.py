"""One stream: a Wan2.1-shaped diffusion transformer for video or for audio.

Latents become tokens (b, f, s, d): s = (h/p)(w/p) patches of a video frame, or
the c audio latents that share a video frame's time. Time t in [0, 1] is

    e = MLP(sinusoid(1000 t)),   six block rows = Linear(silu(e))          (1)

per sample, shape (b,), or per token, shape (b, f, s) or (b, f, 1); both end as
(b, f | 1, s | 1, d), so that the per-sample path costs one row a sample.
The head is Linear(mod(norm x)) with its own two rows, from e itself.
"""

import einops
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ccl_jax import modules
from ccl_jax.models import layers, rope
from ccl_jax.models.block import Block, Modulation
from ccl_jax.types import Array, Float

TIME_SCALE = 1000.0
normal_02 = nnx.initializers.normal(0.02)


class DiT(nnx.Module):
  """A stream of `num_layers` stacked blocks.

  Args:
    kind: "video" (3-D grid, patches of p x p latents) or "audio" (1-D).
    width, ffn, heads: of the transformer; width / heads is the head size.
    channels: of the latents.
    patch: p; 1 for audio.
    tokens_per_frame: c, for audio only.
    text_width: of the text encoder's output.

  Raises:
    ValueError: width is not a multiple of 2 * heads, or an unknown kind.
  """

  def __init__(
    self, kind: str, *, num_layers: int, width: int, ffn: int, heads: int,
    channels: int, text_width: int, patch: int = 1, tokens_per_frame: int = 0,
    frequency_dim: int = 256, rngs, dtype,
  ):  # fmt: skip
    if kind not in ("video", "audio"):
      raise ValueError(f"{kind=}: expected 'video' or 'audio'.")
    if width % (2 * heads):
      raise ValueError(f"{width=} is not a multiple of 2 * {heads=}.")
    self.kind, self.width, self.head_size = kind, width, width // heads
    self.patch, self.tokens_per_frame = patch, tokens_per_frame
    self.frequency_dim, self.dtype = frequency_dim, dtype
    options, d_patch = dict(rngs=rngs, dtype=dtype), channels * patch**2
    self.embed = layers.linear(d_patch, width, **options)
    small = dict(init=normal_02, rngs=rngs)
    self.text = layers.MLP(
      text_width, width, width, activation="gelu_tanh", dtype=dtype, **small
    )
    self.time = layers.MLP(
      frequency_dim, width, width, activation="silu", dtype=jnp.float32, **small
    )
    self.time_rows = layers.linear(
      width, 6 * width, rngs=rngs, dtype=jnp.float32
    )
    self.blocks = modules.stack(
      lambda r: Block(width, ffn, width // heads, rngs=r, dtype=dtype),
      num_layers,
      rngs,
    )
    head_rows = jax.random.normal(rngs.params(), (2, width)) / width**0.5
    self.head_modulation = nnx.Param(head_rows)
    self.head = layers.linear(width, d_patch, init=layers.zeros, **options)

  def tokens(self, latents: Float[Array, " b *grid c"]) -> Array:
    """Latents to (b, f, s, patch channels), channel-major as a Conv3d.

    Raises:
      ValueError: the grid is not a multiple of the patch or of c.
    """
    if self.kind == "audio":
      c = self.tokens_per_frame
      if latents.ndim != 3 or latents.shape[1] % c:
        raise ValueError(
          f"audio {latents.shape=}: expected (b, m, channels) with m a multiple"
          f" of {c} (audio latents per video frame); crop or pad it."
        )
      return einops.rearrange(latents, "b (f s) c -> b f s c", s=c)
    p = self.patch
    if latents.ndim != 5 or latents.shape[2] % p or latents.shape[3] % p:
      raise ValueError(
        f"video {latents.shape=}: expected (b, f, h, w, channels) with h and w"
        f" multiples of the patch, {p}."
      )
    pattern = "b f (h p) (w q) c -> b f (h w) (c p q)"
    return einops.rearrange(latents, pattern, p=p, q=p)

  def grid(self, latents: Float[Array, " b *grid c"]) -> tuple[int, int, int]:
    """(f, h, w) tokens of the latents; audio is (f, 1, c)."""
    if self.kind == "audio":
      c = self.tokens_per_frame
      return latents.shape[1] // c, 1, c
    _, f, h, w, _ = latents.shape
    return f, h // self.patch, w // self.patch

  def angles(self, f: int, h: int, w: int) -> Float[Array, "n half"]:
    """RoPE of self-attention: Wan's 3-D grid, or a plain sequence."""
    if self.kind == "audio":
      return rope.sequence_angles(f * w, self.head_size)
    return rope.video_angles(np.arange(f, dtype=float), h, w, self.head_size)

  def embed_time(
    self, t: Float[Array, " b *fs"]
  ) -> tuple[Float[Array, "b f s d"], Float[Array, "b f s 6 d"]]:
    """e and the six rows of eq. 1; t is (b,), (b, f, 1) or (b, f, s)."""
    t = t[:, None, None] if t.ndim == 1 else t
    e = self.time(layers.sinusoid(TIME_SCALE * t, self.frequency_dim))
    rows = self.time_rows(nnx.silu(e))
    return e, einops.rearrange(rows, "b f s (r d) -> b f s r d", r=6)

  def output(
    self,
    x: Float[Array, "b f s d"],
    e: Float[Array, " b #f #s d"],
    grid: tuple[int, int, int],
    frames: int,
  ) -> Array:
    """Velocity of the first `frames` in float32, shaped as the latents."""
    rows = self.head_modulation[...] + e[..., None, :]
    shift, scale = rows[..., 0, :], rows[..., 1, :]
    y = self.head(Modulation(shift, scale, shift).apply(x))
    y = y.astype(jnp.float32)[:, :frames]
    if self.kind == "audio":
      return einops.rearrange(y, "b f s c -> b (f s) c")
    _, h, w = grid
    pattern = "b f (h w) (p q c) -> b f (h p) (w q) c"
    return einops.rearrange(y, pattern, h=h, w=w, p=self.patch, q=self.patch)

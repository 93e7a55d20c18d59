"""An image diffusion transformer (DiT, arXiv 2212.09748), frame by frame.

A frame of video is an image of h x w patches. The sound is one image too, of f
x s tokens with one audio latent each: a row for every frame. Time t in [0, 1]
and the text modulate every block together (adaLN-zero), and nothing else reads
the text:

    e = MLP(sinusoid(1000 t)) + mean(text) W + b,   rows = Linear(silu(e))  (1)
    x += g1 * o(attention(q, k, v)),  q, k, v of mod(norm x, b1, s1)
    x += g2 * mlp(mod(norm x, b2, s2))

where each block has its own matrix for the rows (b1, s1, g1, b2, s2, g2). The
mean is over the tokens of the text that are not zero. A class is a text of one
one-hot token; zeros stand for no class, so that b is the published null class.

Positions are fixed: half of the channels are sines and cosines of the column,
half of the row,

    sin(p w_i), cos(p w_i),   w_i = 10000^(-4i / d),   i < d / 4            (2)
"""

import einops
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ccl_jax.array_types import Array, Float, Image
from ccl_jax.config import check_choice
from ccl_jax.models import layers
from ccl_jax.models.ada_norm import modulate
from ccl_jax.models.block import (
  Block,
  CrossAttentionInputs,
  Modulation,
  StreamOps,
  flatten,
)
from ccl_jax.models.dit import NO_IMAGE, DiT, normal_02
from ccl_jax.models.prediction import PREDICTIONS
from ccl_jax.params import nnx_utils


class ImageBlock(Block):
  """A block of width d with adaLN-zero, without cross-attention."""

  def __init__(self, d: int, d_ffn: int, head_size: int, *, rngs, dtype):
    options = dict(rngs=rngs, dtype=dtype)
    self.time_rows = layers.linear(
      d, 6 * d, rngs=rngs, dtype=jnp.float32, init=layers.zeros
    )
    self.self_attention = layers.Projections(d, d, head_size, **options)
    self.ffn = layers.MLP(d, d_ffn, d, activation="gelu_tanh", **options)

  def modulate(
    self, time: Float[Array, " b #f #s d"]
  ) -> tuple[Modulation, Modulation]:
    """Returns the rows for self-attention and FFN, from silu(e) of eq. 1."""
    rows = jnp.split(self.time_rows(time), 6, -1)
    return Modulation(*rows[:3]), Modulation(*rows[3:])

  def qkv(
    self,
    x: Float[Array, "b f s d"],
    modulation: Modulation,
    angles: None,
    ops: StreamOps,
  ) -> tuple[Float[Array, "b n k e"], ...]:
    """Returns queries, keys and values of self-attention."""
    y, p = flatten(modulation.apply(x, ops)), self.self_attention
    return tuple(
      layers.split_heads(each(y), p.head_size) for each in (p.q, p.k, p.v)
    )

  def add_text(
    self,
    x: Float[Array, "b f s d"],
    prompt: CrossAttentionInputs,
    ops: StreamOps,
  ) -> Float[Array, "b f s d"]:
    """Returns x: text is in the modulation."""
    return x


class SharedDiT(DiT):
  """A stream's first and last layer; its blocks are an `ImageDiT`'s.

  Args:
    width, ffn, heads: of the other stream.
    channels, patch, tokens_per_frame: as in `DiT`.
    prediction_type: of `prediction.PREDICTIONS`; "epsilon", as in the published
      weights, is that of DDPM.
    learns_variance: the output is a noise and its variance, side by side, as of
      the published weights. No solver here reads the variance.

  Raises:
    ValueError: an unknown prediction, a learned variance with a prediction
      other than noise, or a width that is not a multiple of 4 * heads.
  """

  condition_channels = image_width = 0  # no reference image

  def __init__(
    self, kind: str, *, num_layers: int, width: int, ffn: int, heads: int,
    channels: int, text_width: int, patch: int = 1,
    tokens_per_frame: float | int = 0, learns_variance: bool = False,
    prediction_type: str = "flow_prediction", rngs, dtype,
  ):  # fmt: skip
    key = f"model.{kind}.prediction_type"
    check_choice(key, prediction_type, PREDICTIONS)
    if learns_variance and prediction_type != "epsilon":
      raise ValueError(
        f"{learns_variance=} with {prediction_type=}: expected 'epsilon', as"
        " the variance is that of DDPM's noise."
      )
    if width % (4 * heads):
      raise ValueError(f"{width=} is not a multiple of 4 * {heads=}.")
    self.kind, self.width, self.head_size = kind, width, width // heads
    self.patch, self.tokens_per_frame = patch, tokens_per_frame
    self.prediction_type = prediction_type
    self.dtype, options = dtype, dict(rngs=rngs, dtype=dtype)
    d_in = channels * patch**2
    self.embed = layers.linear(d_in, width, **options)
    zeros = dict(init=layers.zeros, rngs=rngs)
    self.head_rows = layers.linear(width, 2 * width, dtype=jnp.float32, **zeros)
    d_out = d_in * (1 + learns_variance)
    self.head = layers.linear(width, d_out, dtype=dtype, **zeros)

  def embed_tokens(
    self, tokens: Float[Array, "b f s p"], grid: tuple[int, int, int]
  ) -> Float[Array, "b f s d"]:
    """Embeds patches, and adds eq. 2."""
    f, h, w = grid
    x, is_audio = self.embed(tokens), self.kind == "audio"
    image = positions(f if is_audio else h, w, self.width)
    image = image.reshape(-1, x.shape[2], self.width)
    return x + image[None].astype(x.dtype)

  def angles(self, f: int, h: int, w: int) -> None:
    """Returns no RoPE."""

  def patches(
    self, x: Float[Array, "b f s d"], e: Float[Array, " b #f #s d"]
  ) -> Float[Array, "b f s p"]:
    """Returns the patches that the last layer predicts."""
    shift, scale = jnp.split(self.head_rows(nnx.silu(e)), 2, -1)
    return self.head(modulate(x, shift, scale))


class ImageDiT(SharedDiT):
  """A stream of `num_layers` stacked `ImageBlock`s.

  Args:
    kind: "video".
    width, ffn, heads, channels, patch: as in `DiT`.
    text_width: of the text encoder's output, or the number of classes.
  """

  def __init__(
    self, kind: str, *, num_layers: int, width: int, ffn: int, heads: int,
    channels: int, text_width: int, patch: int = 2, frequency_dim: int = 256,
    learns_variance: bool = False, prediction_type: str = "flow_prediction",
    rngs, dtype,
  ):  # fmt: skip
    super().__init__(
      kind, num_layers=num_layers, width=width, ffn=ffn, heads=heads,
      channels=channels, text_width=text_width, patch=patch,
      learns_variance=learns_variance, prediction_type=prediction_type,
      rngs=rngs, dtype=dtype,
    )  # fmt: skip
    self.frequency_dim = frequency_dim
    self.time = layers.MLP(
      frequency_dim, width, width, activation="silu", dtype=jnp.float32,
      init=normal_02, rngs=rngs,
    )  # fmt: skip
    self.text = layers.linear(
      text_width, width, init=layers.zeros, rngs=rngs, dtype=dtype
    )
    self.blocks = nnx_utils.stack(
      lambda r: ImageBlock(width, ffn, width // heads, rngs=r, dtype=dtype),
      num_layers,
      rngs,
    )

  def prompt(
    self, text: Float[Array, "b l w"], image: Image = NO_IMAGE
  ) -> CrossAttentionInputs:
    """Returns the text as it is, as the blocks do not read it."""
    return CrossAttentionInputs(text)

  def embed_time(
    self, t: Float[Array, " b *fs"], text: Float[Array, "b l w"]
  ) -> tuple[Float[Array, "b f s d"], Float[Array, "b f s d"]]:
    """Returns e of eq. 1 and silu(e); t is (b,), (b, f, 1) or (b, f, s)."""
    t = t[:, None, None] if t.ndim == 1 else t
    t = self.prediction.scale_time(t)
    e = self.time(layers.sinusoid(t, self.frequency_dim))
    e += self.text(mean_token(text)).astype(e.dtype)[:, None, None]
    return e, nnx.silu(e)


def mean_token(text: Float[Array, "b l w"]) -> Float[Array, "b w"]:
  """Returns the mean of the tokens that are not zero, or zero."""
  num = jnp.any(text != 0, -1).sum(-1, keepdims=True)
  total = text.astype(jnp.float32).sum(1)
  return (total / jnp.maximum(num, 1).astype(jnp.float32)).astype(text.dtype)


def positions(h: int, w: int, d: int) -> Float[Array, "n d"]:
  """Returns eq. 2 of an image's tokens, row by row.

  Only the tables of rows and columns are constants of the program.
  """
  frequency = 1e4 ** (-np.arange(d // 4, dtype=np.float64) / (d // 4))

  def table(num: int) -> Float[Array, "p half"]:
    angle = np.arange(num)[:, None] * frequency
    return jnp.asarray(
      np.concatenate([np.sin(angle), np.cos(angle)], -1), jnp.float32
    )

  columns = einops.repeat(table(w), "w c -> (h w) c", h=h)
  rows = einops.repeat(table(h), "h c -> (h w) c", w=w)
  return jnp.concatenate([columns, rows], -1)

"""One stream: a Wan2.1-shaped diffusion transformer for video or for audio.

Latents become tokens (b, f, s, d): s = (h/p)(w/p) patches of a video frame, or
the c audio latents that share its time (`audio_grid`). Time t in [0, 1] is

    e = MLP(sinusoid(1000 t)),   six block rows = Linear(silu(e))          (1)

per sample, shape (b,), or per token, shape (b, f, s) or (b, f, 1); both end as
(b, f | 1, s | 1, d), so that times per sample cost one row per sample. The head
is Linear(mod(norm x)) with its own two rows, from e itself.

For image conditioning of a video stream (Wan2.1 I2V), the image's latents are
channels after the noisy latents, and the blocks read CLIP's tokens beside the
text, embedded by

    norm(Linear(gelu(Linear(norm(tokens)))))                              (2)

Without an image the channels are zero
and the tokens are skipped, so an I2V checkpoint runs, and trains, as the T2V
model that it contains. (Weight decay shrinks unused parameters, so freeze them:
the paths are video/image/ and video/blocks/image/.)
"""

import einops
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ccl_jax.array_types import Array, Float, Image
from ccl_jax.models import layers, rope
from ccl_jax.models.ada_norm import modulate
from ccl_jax.models.audio_grid import AudioGrid
from ccl_jax.models.block import Block, CrossAttentionInputs
from ccl_jax.models.prediction import PREDICTIONS, FlowPrediction
from ccl_jax.ops.norms import LayerNorm, expand_like
from ccl_jax.params import nnx_utils

IMAGE_EPSILON = 1e-5  # of the norms of eq. 2
NO_IMAGE = Image()
normal_02 = nnx.initializers.normal(0.02)


class ImageEmbedding(nnx.Module):
  """Eq. 2, from tokens of width w to the stream's d."""

  def __init__(self, w: int, d: int, *, rngs, dtype):
    options = dict(rngs=rngs, dtype=dtype)
    self.norm_in = LayerNorm(w, IMAGE_EPSILON)
    self.mlp = layers.MLP(w, w, d, activation="gelu", **options)
    self.norm_out = LayerNorm(d, IMAGE_EPSILON)

  def __call__(self, tokens: Float[Array, "b i w"]) -> Float[Array, "b i d"]:
    return self.norm_out(self.mlp(self.norm_in(tokens)))


class DiT(nnx.Module):
  """A stream of `num_layers` stacked blocks.

  Args:
    kind: "video" (3-D grid, patches of p x p latents) or "audio" (1-D).
    width, ffn, heads: of the transformer; width / heads is the head size.
    channels: of the latents.
    patch: p; 1 for audio.
    tokens_per_frame: c, for audio only; whole or not.
    text_width: of the text encoder's output.
    condition_channels: channels of the image's latents, for video only:
      Wan2.1's I2V has 20, a mask of 4 and 16 of the image.
    image_width: width of the image's tokens, for video only: CLIP's have 1280.

  Raises:
    ValueError: width is not a multiple of 2 * heads, a number out of range, an
      unknown kind, or an audio stream with image conditioning.
  """

  prediction_type = "flow_prediction"

  def __init__(
    self, kind: str, *, num_layers: int, width: int, ffn: int, heads: int,
    channels: int, text_width: int, patch: int = 1,
    tokens_per_frame: float | int = 0, frequency_dim: int = 256,
    condition_channels: int = 0, image_width: int = 0, rngs, dtype,
  ):  # fmt: skip
    if kind not in ("video", "audio"):
      raise ValueError(f"{kind=}: expected 'video' or 'audio'.")
    if min(width, ffn, heads, channels, patch) < 1 or condition_channels < 0:
      raise ValueError(
        f"model.{kind} has {width=}, {ffn=}, {heads=}, {channels=}, {patch=},"
        f" {condition_channels=}: expected at least 1, of the last 0."
      )
    if width % (2 * heads):
      raise ValueError(f"{width=} is not a multiple of 2 * {heads=}.")
    if kind == "audio" and (condition_channels or image_width):
      raise ValueError(
        f"{condition_channels=}, {image_width=}: only a video stream has image"
        " conditioning; expected 0 for audio."
      )
    self.kind, self.width, self.head_size = kind, width, width // heads
    self.patch, self.tokens_per_frame = patch, tokens_per_frame
    self.frequency_dim, self.dtype = frequency_dim, dtype
    self.condition_channels = condition_channels
    self.image_width = image_width
    options = dict(rngs=rngs, dtype=dtype)
    d_in = (channels + condition_channels) * patch**2
    self.embed = layers.linear(d_in, width, **options)
    small = dict(init=normal_02, rngs=rngs)
    self.text = layers.MLP(
      text_width, width, width, activation="gelu_tanh", dtype=dtype, **small
    )
    has_image = image_width > 0
    self.image = (
      ImageEmbedding(image_width, width, **options) if has_image else None
    )
    self.time = layers.MLP(
      frequency_dim, width, width, activation="silu", dtype=jnp.float32, **small
    )
    self.time_rows = layers.linear(
      width, 6 * width, rngs=rngs, dtype=jnp.float32
    )
    block = dict(dtype=dtype, has_image=has_image)
    self.blocks = nnx_utils.stack(
      lambda r: Block(width, ffn, width // heads, rngs=r, **block),
      num_layers,
      rngs,
    )
    head_rows = jax.random.normal(rngs.params(), (2, width)) / width**0.5
    self.head_modulation = nnx.Param(head_rows)
    d_out = channels * patch**2
    self.head = layers.linear(width, d_out, init=layers.zeros, **options)

  @property
  def prediction(self) -> FlowPrediction:
    """Returns how the network's input, time and output are of the flow."""
    return PREDICTIONS[self.prediction_type]

  def check_image(
    self, image: Image, latents: Float[Array, "b f h w c"]
  ) -> None:
    """Checks that this stream reads such an image; else raises ValueError."""
    for name, x, leading, width in (
      ("latents", image.latents, latents.shape[:4], self.condition_channels),
      ("tokens", image.tokens, latents.shape[:1], self.image_width),
    ):
      if x is None:
        continue
      if not width:
        raise ValueError(
          f"{name} {x.shape} of an image: this model does not read them."
          " Expected a model made from Wan2.1-I2V, or no image."
        )
      if x.shape[: len(leading)] != leading or x.shape[-1] != width:
        raise ValueError(
          f"{name} of an image are {x.shape}: expected {leading} first and"
          f" {width} last, for video latents {latents.shape}."
        )
    if (x := image.references) is not None:
      (b, _, *frame), has = latents.shape, image.has_references
      if x.shape != (b, x.shape[1], *frame) or has.shape != x.shape[:2]:
        raise ValueError(
          f"reference pictures are {x.shape}, has_references {has.shape}:"
          f" expected ({b}, r, {', '.join(map(str, frame))}) and ({b}, r), for"
          f" video latents {latents.shape}."
        )

  def tokens(
    self, latents: Float[Array, " b *grid c"], image: Image = NO_IMAGE
  ) -> Array:
    """Rearranges latents to (b, f, s, patch channels), channels first.

    Raises:
      ValueError: the grid is not a multiple of the patch or of c.
    """
    if self.kind == "audio":
      if latents.ndim != 3:
        raise ValueError(f"audio {latents.shape=}: expected (b, m, channels).")
      return AudioGrid.of(latents.shape[1], self.tokens_per_frame).pad(latents)
    p = self.patch
    if latents.ndim != 5 or latents.shape[2] % p or latents.shape[3] % p:
      raise ValueError(
        f"video {latents.shape=}: expected (b, f, h, w, channels) with h and w"
        f" multiples of the patch, {p}."
      )
    if self.condition_channels:
      condition = image.latents
      if condition is None:
        condition = jnp.zeros((*latents.shape[:4], self.condition_channels))
      latents = jnp.concatenate([latents, condition], -1)
    pattern = "b f (h p) (w q) c -> b f (h w) (c p q)"
    return einops.rearrange(latents, pattern, p=p, q=p)

  def embed_tokens(
    self, tokens: Float[Array, "b f s p"], grid: tuple[int, int, int]
  ) -> Float[Array, "b f s d"]:
    """Embeds patches; positions are RoPE's."""
    del grid
    return self.embed(tokens)

  def prompt(
    self, text: Float[Array, "b l w"], image: Image = NO_IMAGE
  ) -> CrossAttentionInputs:
    """Embeds the text, and the image's tokens if any, for the blocks."""
    tokens = image.tokens
    return CrossAttentionInputs(
      self.text(text), None if tokens is None else self.image(tokens)
    )

  def grid(self, latents: Float[Array, " b *grid c"]) -> tuple[int, int, int]:
    """Returns the (f, h, w) tokens of the latents; audio is (f, 1, s)."""
    if self.kind == "audio":
      grid = AudioGrid.of(latents.shape[1], self.tokens_per_frame)
      return grid.frames, 1, grid.slots
    _, f, h, w, _ = latents.shape
    return f, h // self.patch, w // self.patch

  def angles(self, f: int, h: int, w: int) -> Float[Array, "n half"]:
    """Returns RoPE of self-attention: Wan's 3-D grid, or a 1-D sequence."""
    if self.kind == "audio":
      grid = AudioGrid(f, self.tokens_per_frame)
      return rope.sequence_angles(grid.latents, self.head_size)
    return rope.video_angles(np.arange(f, dtype=float), h, w, self.head_size)

  def embed_time(
    self, t: Float[Array, " b *fs"], text: Float[Array, "b l w"]
  ) -> tuple[Float[Array, "b f s d"], Float[Array, "b f s 6 d"]]:
    """Returns e and the rows of eq. 1; t is (b,), (b, f, 1) or (b, f, s)."""
    del text  # which the blocks read
    t = t[:, None, None] if t.ndim == 1 else t
    t = self.prediction.scale_time(t)
    e = self.time(layers.sinusoid(t, self.frequency_dim))
    rows = self.time_rows(nnx.silu(e))
    return e, einops.rearrange(rows, "b f s (r d) -> b f s r d", r=6)

  def patches(
    self, x: Float[Array, "b f s d"], e: Float[Array, " b #f #s d"]
  ) -> Float[Array, "b f s p"]:
    """Returns the patches that the last layer predicts."""
    e = e[..., None, :]
    rows = expand_like(self.head_modulation[...], e) + e
    return self.head(modulate(x, shift=rows[..., 0, :], scale=rows[..., 1, :]))

  def output(
    self,
    x: Float[Array, "b f s d"],
    e: Float[Array, " b #f #s d"],
    grid: tuple[int, int, int],
    frames: int,
  ) -> Array:
    """Returns the prediction of the first `frames`, float32, as latents."""
    y = self.patches(x, e).astype(jnp.float32)[:, :frames]
    if self.kind == "audio":
      return AudioGrid(frames, self.tokens_per_frame).unpad(y)
    _, h, w = grid
    pattern = "b f (h w) (p q c) -> b f (h p) (w q) c"
    return einops.rearrange(y, pattern, h=h, w=w, p=self.patch, q=self.patch)

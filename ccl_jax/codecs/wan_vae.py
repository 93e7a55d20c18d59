"""Wan2.1's video autoencoder: 1 + 4k frames of pixels <-> 1 + k of latents.

    encode   x -> conv -> residuals, halved 3 times -> middle -> mean, logvar
    decode   z -> conv -> middle -> residuals, doubled 3 times -> x

The middle is residual, attention, residual. Both process a clip in chunks:
`lax.scan` carries the cache of the layers (`wan_layers.FeatureCache`), so that
memory does not grow with the clip. Two loop bodies are compiled: one for the
first chunk, of 1 + (k mod chunk) latents, and one for the others, of `chunk`
latents. One chunk for the entire clip (chunk > k) gives the same numbers.

Inputs and outputs of this module are latents of mean 0 and deviation about 1:

    z = (mean - m) / s     logvar' = logvar - 2 log s                      (1)

with Wan's published m and s. Pixels are in [-1, 1].
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from ccl_jax.array_types import Array, Float, PyTree
from ccl_jax.codecs.wan_layers import (
  Attention,
  Downsample,
  FeatureCache,
  Frames,
  Linear,
  ResidualBlock,
  RMSNorm,
  Upsample,
  causal_conv,
)
from ccl_jax.ops.norms import expand_like
from ccl_jax.params import nnx_utils, trees
from ccl_jax.params.sharding import ONE_DEVICE, Layout


@dataclasses.dataclass(frozen=True)
class WanVAEConfig:
  """Sizes of the model; the defaults are the published one's.

  Attributes:
    base: channels at full resolution.
    multipliers: of `base`, for each resolution.
    residuals: blocks at each resolution; the decoder has one more.
    channels: of the latents.
    halves_time: for each halving of the picture, if it halves the frames too.
    mean, deviation: of a latent's channels, m and s of eq. 1.
  """

  base: int = 96
  multipliers: tuple[int, ...] = (1, 2, 4, 4)
  residuals: int = 2
  channels: int = 16
  halves_time: tuple[bool, ...] = (False, True, True)
  mean: tuple[float, ...] = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
  )  # fmt: skip
  deviation: tuple[float, ...] = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
  )  # fmt: skip

  def __post_init__(self):
    if len(self.halves_time) != len(self.multipliers) - 1:
      raise ValueError(
        f"{self.halves_time=}: expected one for each of the"
        f" {len(self.multipliers) - 1} halvings."
      )
    if not len(self.mean) == len(self.deviation) == self.channels:
      raise ValueError(
        f"{len(self.mean)=}, {len(self.deviation)=}: expected {self.channels=}."
      )

  @property
  def widths(self) -> tuple[int, ...]:
    """Channels at each resolution, from the pixels down."""
    return tuple(self.base * m for m in self.multipliers)

  @property
  def stride(self) -> tuple[int, int, int]:
    """Pixels to a latent in t, y and x."""
    space = 2 ** len(self.halves_time)
    return 2 ** sum(self.halves_time), space, space


PUBLISHED = WanVAEConfig()


class _Coder(nnx.Module):
  """Input convolution, layers, then norm, silu and output convolution."""

  def __init__(
    self, sizes: tuple[int, int, int, int], middle: int, blocks: list, *, rngs
  ):
    d_in, first, last, d_out = sizes
    self.conv_in = causal_conv(d_in, first, rngs=rngs)
    self.blocks = nnx.List(blocks)
    self.middle = nnx.List(
      [
        ResidualBlock(middle, middle, rngs=rngs),
        Attention(middle, rngs=rngs),
        ResidualBlock(middle, middle, rngs=rngs),
      ]
    )
    self.norm_out = RMSNorm(last)
    self.conv_out = causal_conv(last, d_out, rngs=rngs)

  def run(self, layers: list, x: Array, cache: FeatureCache) -> Array:
    """Returns the output after `layers`, the blocks and the middle."""
    x = self.conv_in(cache.extend(x, 2))
    for layer in layers:
      x = layer(x, cache)
    return self.conv_out(cache.extend(nnx.silu(self.norm_out(x)), 2))


class Encoder(_Coder):
  """Pixels -> 2c channels; a clip's first chunk has 1 + 4k frames."""

  def __init__(self, config: WanVAEConfig, *, rngs):
    blocks, widths = [], config.widths
    d = widths[0]
    for i, width in enumerate(widths):
      for _ in range(config.residuals):
        blocks.append(ResidualBlock(d, width, rngs=rngs))
        d = width
      if i < len(config.halves_time):
        blocks.append(Downsample(width, config.halves_time[i], rngs=rngs))
    sizes = (3, widths[0], d, 2 * config.channels)
    super().__init__(sizes, d, blocks, rngs=rngs)

  def __call__(
    self, x: Float[Array, "b t y x 3"], cache: FeatureCache
  ) -> Float[Array, "b f h w c"]:
    return self.run([*self.blocks, *self.middle], x, cache)


class Decoder(_Coder):
  """Latents -> pixels."""

  def __init__(self, config: WanVAEConfig, *, rngs):
    blocks, widths = [], config.widths[::-1]
    d = widths[0]
    for i, width in enumerate(widths):
      for _ in range(config.residuals + 1):
        blocks.append(ResidualBlock(d, width, rngs=rngs))
        d = width
      if i < len(config.halves_time):
        blocks.append(Upsample(width, config.halves_time[::-1][i], rngs=rngs))
        d = width // 2
    sizes = (config.channels, widths[0], d, 3)
    super().__init__(sizes, widths[0], blocks, rngs=rngs)

  def __call__(
    self, z: Float[Array, "b f h w c"], cache: FeatureCache
  ) -> Float[Array, "b t y x 3"]:
    return self.run([*self.middle, *self.blocks], z, cache)


class Autoencoder(nnx.Module):
  """Encoder and decoder, each with a linear map of the latents."""

  def __init__(self, config: WanVAEConfig, *, rngs: nnx.Rngs):
    c = config.channels
    self.encoder = Encoder(config, rngs=rngs)
    self.quant = Linear(2 * c, 2 * c, rngs=rngs)
    self.post_quant = Linear(c, c, rngs=rngs)
    self.decoder = Decoder(config, rngs=rngs)


def encode(
  params: PyTree,
  video: Array,
  config: WanVAEConfig = PUBLISHED,
  *,
  dtype: str = "float32",
  layout: Layout = ONE_DEVICE,
  chunk: int = 1,
  read: Callable[[Array], Array] = lambda x: x,
) -> tuple[Float[Array, "b f h w c"], Float[Array, "b f h w c"]]:
  """Returns mean and logvar' of (1), float32, in chunks of latent frames.

  Args:
    video: (b, t, y, x, 3). A mesh splits rows and columns, evenly.
    read: makes pixels in [-1, 1] of a chunk of `video`, so that a long clip can
      stay bytes.
  """
  model = _model(config, params, dtype)

  def encode_chunk(x, frames):
    cache = FeatureCache(frames, layout)
    y = model.quant(model.encoder(read(x).astype(dtype), cache))
    return y.astype(jnp.float32), cache.updated

  y = _scan_chunks(encode_chunk, video, config.stride[0], chunk)
  mean, logvar = jnp.split(y, 2, -1)
  m, s = _statistics(config, mean)
  return (mean - m) / s, jnp.clip(logvar, -30, 20) - 2 * jnp.log(s)


def decode(
  params: PyTree,
  latents: Float[Array, "b f h w c"],
  config: WanVAEConfig = PUBLISHED,
  *,
  chunk: int = 1,
  **options: Any,
) -> Array:
  """Returns video (b, t, y, x, 3), float32 in [-1, 1], the inverse of `encode`.

  Args:
    options: of `chunk_decoder`.
  """
  run = chunk_decoder(params, config, **options)
  return _scan_chunks(run, latents, 1, chunk)


def chunk_decoder(
  params: PyTree,
  config: WanVAEConfig = PUBLISHED,
  *,
  dtype: str = "float32",
  layout: Layout = ONE_DEVICE,
  write: Callable[[Array], Array] = lambda x: x,
) -> Callable[[Array, Frames | None], tuple[Array, Frames]]:
  """Returns (latents, frames) -> (pixels, frames) for one chunk of a clip.

  `frames` is the cache of the chunk before, None at the start of a clip.

  Args:
    write: applied to the pixels.
  """
  model = _model(config, params, dtype)

  def decode_chunk(z, frames):
    m, s = _statistics(config, z)
    cache = FeatureCache(frames, layout)
    z = model.post_quant((z.astype(jnp.float32) * s + m).astype(dtype))
    y = model.decoder(z, cache).astype(jnp.float32)
    return write(jnp.clip(y, -1, 1)), cache.updated

  return decode_chunk


def _model(config: WanVAEConfig, params: PyTree, dtype: str) -> Autoencoder:
  """Returns the model with its parameters in `dtype`, except those of norms."""
  cast = {
    path: x if path.endswith("scale") else x.astype(dtype)
    for path, x in trees.flatten(params).items()
  }
  return nnx_utils.bind(Autoencoder, config, trees.unflatten(cast))


def _statistics(config: WanVAEConfig, z: Array) -> tuple[Array, Array]:
  """Returns mean and deviation of each channel, with the axes of z."""
  return tuple(
    expand_like(jnp.array(x), z) for x in (config.mean, config.deviation)
  )


def first_chunk_length(length: int, stride: int, chunk: int) -> int:
  """Returns the frames of the first chunk; all others have `chunk` strides."""
  return 1 + stride * ((length - 1) // stride % chunk)


def _scan_chunks(
  run: Callable[[Array, Frames | None], tuple[Array, Frames]],
  x: Array,
  stride: int,
  chunk: int,
) -> Array:
  """Returns `run` over 1 + stride k frames, `chunk` strides at a time."""
  first = first_chunk_length(x.shape[1], stride, chunk)
  start, frames = run(x[:, :first], None)
  if first == x.shape[1]:
    return start
  chunks = rearrange(x[:, first:], "b (n t) ... -> n b t ...", t=stride * chunk)

  def body(frames, x):
    y, frames = run(x, frames)
    return frames, y

  _, others = jax.lax.scan(body, frames, chunks)
  others = rearrange(others, "n b t ... -> b (n t) ...")
  return jnp.concatenate([start, others], 1)

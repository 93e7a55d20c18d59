"""MMAudio's VAE of log-mel spectrograms, in one dimension.

  mel (b, t, num_mels) -> normalised per bin -> mean, logvar (b, t // 2, c)

Blocks preserve magnitudes (Karras et al. 2023, "EDM2"): each output of a kernel
has norm 1 over its inputs, and activations, sums and norms are

  silu(x) / 0.596        (0.7 a + 0.3 b) / sqrt(0.7^2 + 0.3^2)              (1)
  x / (1e-4 + rms(x) over channels)                                         (2)

The kernels in MMAudio's files are not normalised: MMAudio normalises them when
it loads them, our converter once. Here kernels are used as stored. Everything
runs in the dtype of the input, except means over channels and the softmax,
which are in float32.

`num` (see `time_conv`) is the number of valid steps of the input.
"""

import dataclasses
import functools
import math

import einops
import jax
import jax.numpy as jnp
from flax import nnx

from ccl_jax.array_types import Array, Float
from ccl_jax.codecs import time_conv
from ccl_jax.codecs.time_conv import PRECISION, Num

_CLIP = 256.0
_LOGVAR_RANGE = (-30.0, 20.0)
Conv = functools.partial(time_conv.Conv, bias=False)


@dataclasses.dataclass(frozen=True)
class MMAudioVAEConfig:
  """Sizes; by default those of the 16 kHz model.

  Attributes:
    num_mels: bins of the spectrogram.
    channels: of the latents.
    width: channels of the first level.
    multipliers: of the width, for each level; the first level halves the time.
    num_blocks: of each level of the encoder; the decoder has one more.
  """

  num_mels: int = 80
  channels: int = 20
  width: int = 384
  multipliers: tuple[int, ...] = (1, 2, 4)
  num_blocks: int = 2


MMAUDIO_16K = MMAudioVAEConfig()
MMAUDIO_44K = MMAudioVAEConfig(num_mels=128, channels=40, width=512)


def pixel_norm(x: Float[Array, "b t *k c"]) -> Float[Array, "b t *k c"]:
  """Returns (2)."""
  y = x.astype(jnp.float32)
  rms = jnp.sqrt(jnp.square(y).mean(-1, keepdims=True))
  return (y / (1e-4 + rms)).astype(x.dtype)


def mp_silu(x: Float[Array, "b t c"]) -> Float[Array, "b t c"]:
  """Returns (1), left: EDM2's magnitude-preserving SiLU."""
  return jax.nn.silu(x) / 0.596


def mp_sum(
  a: Float[Array, "b t c"], b: Float[Array, "b t c"]
) -> Float[Array, "b t c"]:
  """Returns (1), right: EDM2's magnitude-preserving sum."""
  return (0.7 * a + 0.3 * b) / math.sqrt(0.7**2 + 0.3**2)


def clip(x: Float[Array, "b t c"]) -> Float[Array, "b t c"]:
  """Returns x, limited to [-_CLIP, _CLIP]."""
  return jnp.clip(x, -_CLIP, _CLIP)


class ResidualBlock(nnx.Module):
  """Two convolutions and a shortcut."""

  def __init__(self, c_in: int, c_out: int, *, rngs: nnx.Rngs):
    self.conv1 = Conv(c_in, c_out, 3, rngs=rngs)
    self.conv2 = Conv(c_out, c_out, 3, rngs=rngs)
    self.shortcut = Conv(c_in, c_out, 1, rngs=rngs) if c_in != c_out else None

  def __call__(
    self, x: Float[Array, "b t c"], num: Num
  ) -> Float[Array, "b t d"]:
    x = pixel_norm(x)
    h = self.conv2(mp_silu(self.conv1(mp_silu(x), num)), num)
    return mp_sum(x if self.shortcut is None else self.shortcut(x), h)


class Attention(nnx.Module):
  """One head over all steps; q, k and v are normalised by (2)."""

  def __init__(self, c: int, *, rngs: nnx.Rngs):
    self.qkv = Conv(c, 3 * c, 1, rngs=rngs)
    self.out = Conv(c, c, 1, rngs=rngs)

  def __call__(
    self, x: Float[Array, "b t c"], num: Num
  ) -> Float[Array, "b t c"]:
    qkv = einops.rearrange(self.qkv(x), "b t (c three) -> b t three c", three=3)
    q, k, v = jnp.unstack(pixel_norm(qkv), axis=2)
    logits = jnp.einsum(
      "bqc,bkc->bqk", q, k, precision=PRECISION,
      preferred_element_type=jnp.float32,
    )  # fmt: skip
    if num is not None:
      logits = jnp.where(jnp.arange(x.shape[1]) < num, logits, -1e30)
    weights = jax.nn.softmax(logits * x.shape[-1] ** -0.5)
    y = jnp.einsum(
      "bqk,bkc->bqc", weights.astype(x.dtype), v, precision=PRECISION
    )
    return mp_sum(x, self.out(y))


class MiddleBlock(nnx.Module):
  """Block, attention, block."""

  def __init__(self, c: int, *, rngs: nnx.Rngs):
    self.block1 = ResidualBlock(c, c, rngs=rngs)
    self.attention = Attention(c, rngs=rngs)
    self.block2 = ResidualBlock(c, c, rngs=rngs)

  def __call__(
    self, x: Float[Array, "b t c"], num: Num
  ) -> Float[Array, "b t c"]:
    x = self.attention(self.block1(x, num), num)
    return clip(self.block2(x, num))


class Downsample(nnx.Module):
  """Mean of two steps, then two linear maps.

  The original takes the mean between the maps; it commutes with the first one,
  which then costs half.
  """

  def __init__(self, c: int, *, rngs: nnx.Rngs):
    self.conv1 = Conv(c, c, 1, rngs=rngs)
    self.conv2 = Conv(c, c, 1, rngs=rngs)

  def __call__(self, x: Float[Array, "b t c"]) -> Float[Array, "b m c"]:
    x = x[:, : x.shape[1] // 2 * 2]
    x = einops.reduce(x, "b (m two) c -> b m c", "mean", two=2)
    return self.conv2(self.conv1(x))


class Encoder(nnx.Module):
  """Normalised mel -> mean and log-variance, concatenated."""

  def __init__(self, config: MMAudioVAEConfig, *, rngs: nnx.Rngs):
    widths = [m * config.width for m in config.multipliers]
    self.conv_in = Conv(config.num_mels, config.width, 3, rngs=rngs)
    self.levels = nnx.List()
    c = config.width
    for d in widths:
      inputs = [c] + [d] * (config.num_blocks - 1)
      blocks = [ResidualBlock(i, d, rngs=rngs) for i in inputs]
      self.levels.append(nnx.List(blocks))
      c = d
    self.halve = Downsample(widths[0], rngs=rngs)
    self.middle = MiddleBlock(c, rngs=rngs)
    self.conv_out = Conv(c, 2 * config.channels, 3, rngs=rngs)
    self.gain = nnx.Param(jnp.zeros(()))

  def __call__(
    self, x: Float[Array, "b t mel"], num: Num
  ) -> Float[Array, "b m d"]:
    x = self.conv_in(x, num)
    for i, blocks in enumerate(self.levels):
      for block in blocks:
        x = clip(block(x, num))
      if i == 0:
        x, num = self.halve(x), None if num is None else num // 2
    x = self.middle(x, num)
    kernel = self.conv_out.kernel[...] * (self.gain[...] + 1)
    return time_conv.conv(mp_silu(x), kernel, num=num)


class Decoder(nnx.Module):
  """The encoder's levels in reverse; the time doubles before level 0."""

  def __init__(self, config: MMAudioVAEConfig, *, rngs: nnx.Rngs):
    widths = [m * config.width for m in config.multipliers]
    c = widths[-1]
    self.conv_in = Conv(config.channels, c, 3, rngs=rngs)
    self.middle = MiddleBlock(c, rngs=rngs)
    self.levels = nnx.List()
    for d_in, d in zip([*widths[1:], c], widths, strict=True):
      inputs = [d_in] + [d] * config.num_blocks
      blocks = [ResidualBlock(i, d, rngs=rngs) for i in inputs]
      self.levels.append(nnx.List(blocks))
    self.double = Conv(widths[1], widths[1], 3, rngs=rngs)
    self.conv_out = Conv(widths[0], config.num_mels, 3, rngs=rngs)
    self.gain = nnx.Param(jnp.zeros(()))

  def __call__(
    self, z: Float[Array, "b m c"], num: Num
  ) -> Float[Array, "b t mel"]:
    x = self.middle(self.conv_in(z, num), num)
    for i in reversed(range(len(self.levels))):
      for block in self.levels[i]:
        x = clip(block(x, num))
      if i == 1:
        num = None if num is None else 2 * num
        x = self.double(jnp.repeat(x, 2, axis=1), num)
    kernel = self.conv_out.kernel[...] * (self.gain[...] + 1)
    return time_conv.conv(mp_silu(x), kernel, num=num)


class MMAudioVAE(nnx.Module):
  """Encoder and decoder; `mean` and `std` of every bin are parameters."""

  def __init__(self, config: MMAudioVAEConfig, *, rngs: nnx.Rngs):
    self.mean = nnx.Param(jnp.zeros(config.num_mels))
    self.std = nnx.Param(jnp.ones(config.num_mels))
    self.encoder = Encoder(config, rngs=rngs)
    self.decoder = Decoder(config, rngs=rngs)

  def encode(
    self, mel: Float[Array, "b t mel"], num: Num = None
  ) -> tuple[Float[Array, "b m c"], Float[Array, "b m c"]]:
    """Returns mean and log-variance of m = t // 2 latents."""
    x = (mel.astype(jnp.float32) - self.mean[None, None]) / self.std[None, None]
    moments = self.encoder(x.astype(mel.dtype), num)
    mean, logvar = jnp.split(moments, 2, axis=-1)
    return mean, jnp.clip(logvar, *_LOGVAR_RANGE)

  def decode(
    self, z: Float[Array, "b m c"], num: Num = None
  ) -> Float[Array, "b t mel"]:
    """Returns the log-mel of t = 2 m frames."""
    x = self.decoder(z, num)
    return (x * self.std[None, None] + self.mean[None, None]).astype(z.dtype)

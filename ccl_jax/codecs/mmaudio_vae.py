"""MMAudio's VAE of log-mel spectrograms, in one dimension.

  mel (b, t, num_mels) -> normalised per bin -> mean, logvar (b, t // 2, c)

Blocks keep magnitudes (Karras et al. 2023, "EDM2"): each output of a kernel has
norm 1 over its inputs, and

  silu(x) / 0.596        (0.7 a + 0.3 b) / sqrt(0.7^2 + 0.3^2)              (1)
  x / (1e-4 + rms(x) over channels)                                         (2)

take the place of activations, sums and norms. MMAudio's files hold kernels of
any norm and normalise them when they load; so does the converter, once: here
kernels are used as they are. Everything runs in the dtype of the input, means
over channels and the softmax in float32.

`num` (see `time_conv`) is how many steps of the input are there.
"""

import dataclasses
import math

import einops
import jax
import jax.numpy as jnp
from flax import nnx

from ccl_jax.array_types import Array, Float, Int
from ccl_jax.codecs.time_conv import PRECISION, conv

_CLIP = 256.0
_LOGVAR_RANGE = (-30.0, 20.0)
Num = Int[Array, ""] | None


@dataclasses.dataclass(frozen=True)
class Settings:
  """Shapes; by default those of the 16 kHz model.

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


MMAUDIO_16K = Settings()
MMAUDIO_44K = Settings(num_mels=128, channels=40, width=512)


def pixel_norm(x: Float[Array, "b t *k c"]) -> Float[Array, "b t *k c"]:
  """Equation (2)."""
  y = x.astype(jnp.float32)
  rms = jnp.sqrt(jnp.square(y).mean(-1, keepdims=True))
  return (y / (1e-4 + rms)).astype(x.dtype)


def silu(x: Float[Array, "b t c"]) -> Float[Array, "b t c"]:
  """Equation (1), left."""
  return jax.nn.silu(x) / 0.596


def blend(
  a: Float[Array, "b t c"], b: Float[Array, "b t c"]
) -> Float[Array, "b t c"]:
  """Equation (1), right."""
  return (0.7 * a + 0.3 * b) / math.sqrt(0.7**2 + 0.3**2)


def clip(x: Float[Array, "b t c"]) -> Float[Array, "b t c"]:
  """Keeps what residuals add up to within _CLIP."""
  return jnp.clip(x, -_CLIP, _CLIP)


class Conv(nnx.Module):
  """A convolution without bias; `gain` multiplies its kernel."""

  def __init__(self, c_in: int, c_out: int, size: int, *, rngs: nnx.Rngs):
    kernel = jax.random.normal(rngs.params(), (size, c_in, c_out))
    self.kernel = nnx.Param(kernel / math.sqrt(size * c_in))

  def __call__(
    self,
    x: Float[Array, "b t c"],
    num: Num = None,
    gain: Float[Array, ""] | float = 1.0,
  ) -> Float[Array, "b t d"]:
    return conv(x, self.kernel[...] * gain, num=num)


class Block(nnx.Module):
  """Two convolutions beside the way around them."""

  def __init__(self, c_in: int, c_out: int, *, rngs: nnx.Rngs):
    self.conv1 = Conv(c_in, c_out, 3, rngs=rngs)
    self.conv2 = Conv(c_out, c_out, 3, rngs=rngs)
    self.shortcut = Conv(c_in, c_out, 1, rngs=rngs) if c_in != c_out else None

  def __call__(
    self, x: Float[Array, "b t c"], num: Num
  ) -> Float[Array, "b t d"]:
    x = pixel_norm(x)
    h = self.conv2(silu(self.conv1(silu(x), num)), num)
    return blend(x if self.shortcut is None else self.shortcut(x), h)


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
    return blend(x, self.out(y))


class Middle(nnx.Module):
  """Block, attention, block."""

  def __init__(self, c: int, *, rngs: nnx.Rngs):
    self.block1 = Block(c, c, rngs=rngs)
    self.attention = Attention(c, rngs=rngs)
    self.block2 = Block(c, c, rngs=rngs)

  def __call__(
    self, x: Float[Array, "b t c"], num: Num
  ) -> Float[Array, "b t c"]:
    x = self.attention(self.block1(x, num), num)
    return clip(self.block2(x, num))


class Halve(nnx.Module):
  """Means of two steps between two products.

  The mean comes first: the products, being linear, then cost half.
  """

  def __init__(self, c: int, *, rngs: nnx.Rngs):
    self.conv1 = Conv(c, c, 1, rngs=rngs)
    self.conv2 = Conv(c, c, 1, rngs=rngs)

  def __call__(self, x: Float[Array, "b t c"]) -> Float[Array, "b m c"]:
    x = x[:, : x.shape[1] // 2 * 2]
    x = einops.reduce(x, "b (m two) c -> b m c", "mean", two=2)
    return self.conv2(self.conv1(x))


class Encoder(nnx.Module):
  """Normalised mel -> mean and log-variance, side by side."""

  def __init__(self, settings: Settings, *, rngs: nnx.Rngs):
    widths = [m * settings.width for m in settings.multipliers]
    self.conv_in = Conv(settings.num_mels, settings.width, 3, rngs=rngs)
    self.levels = nnx.List()
    c = settings.width
    for d in widths:
      inputs = [c] + [d] * (settings.num_blocks - 1)
      self.levels.append(nnx.List([Block(i, d, rngs=rngs) for i in inputs]))
      c = d
    self.halve = Halve(widths[0], rngs=rngs)
    self.middle = Middle(c, rngs=rngs)
    self.conv_out = Conv(c, 2 * settings.channels, 3, rngs=rngs)
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
    return self.conv_out(silu(x), num, gain=self.gain[...] + 1)


class Decoder(nnx.Module):
  """The encoder backwards: the time doubles before the first level."""

  def __init__(self, settings: Settings, *, rngs: nnx.Rngs):
    widths = [m * settings.width for m in settings.multipliers]
    c = widths[-1]
    self.conv_in = Conv(settings.channels, c, 3, rngs=rngs)
    self.middle = Middle(c, rngs=rngs)
    inputs = [*widths[1:], c]
    self.levels = nnx.List()
    for c, d in zip(inputs, widths, strict=True):
      rows = [c] + [d] * settings.num_blocks
      self.levels.append(nnx.List([Block(i, d, rngs=rngs) for i in rows]))
    self.double = Conv(widths[1], widths[1], 3, rngs=rngs)
    self.conv_out = Conv(widths[0], settings.num_mels, 3, rngs=rngs)
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
    return self.conv_out(silu(x), num, gain=self.gain[...] + 1)


class MMAudioVAE(nnx.Module):
  """Both ways; `mean` and `std` of every bin are parameters of the files."""

  def __init__(self, settings: Settings, *, rngs: nnx.Rngs):
    self.mean = nnx.Param(jnp.zeros(settings.num_mels))
    self.std = nnx.Param(jnp.ones(settings.num_mels))
    self.encoder = Encoder(settings, rngs=rngs)
    self.decoder = Decoder(settings, rngs=rngs)

  def encode(
    self, mel: Float[Array, "b t mel"], num: Num = None
  ) -> tuple[Float[Array, "b m c"], Float[Array, "b m c"]]:
    """Mean and log-variance of the latents, m = t // 2 of them."""
    x = (mel - self.mean[...]) / self.std[...]
    moments = self.encoder(x.astype(mel.dtype), num)
    mean, logvar = jnp.split(moments, 2, axis=-1)
    return mean, jnp.clip(logvar, *_LOGVAR_RANGE)

  def decode(
    self, z: Float[Array, "b m c"], num: Num = None
  ) -> Float[Array, "b t mel"]:
    """The log-mel of t = 2 m frames."""
    x = self.decoder(z, num)
    return (x * self.std[...] + self.mean[...]).astype(z.dtype)

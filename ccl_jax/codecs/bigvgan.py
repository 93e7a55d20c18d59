"""BigVGAN: a log-mel (b, t, num_mels) to a wave (b, hop t) in [-1, 1].

Each stage multiplies the rate and halves the channels, then takes the mean of
three residual blocks of dilated convolutions (Lee et al. 2022). Between them
stands a periodic activation, applied at twice the rate, so that what it adds
above the band is filtered out again:

  up      u[2t], u[2t + 1] = 2 sum_i h[.] x[t + i]      two phases of 6 taps
  snake   u + sin(a u)^2 / b                            a, b per channel    (1)
  down    y[t] = sum_j h[j] u[2t + j - 5]               12 taps

h is a Kaiser-windowed sinc; signals go on beyond their ends with their last
values. The two phases are never interleaved: all filters are sums of shifted
rows. Everything is float32: bfloat16 breaks the phase of (1) audibly, and is an
error.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ccl_jax.codecs.time_conv import conv, conv_up
from ccl_jax.types import Array, Float, Int

Num = Int[Array, ""] | None
_TAPS = 12
ACTIVATIONS = ("snake", "snakebeta")


@dataclasses.dataclass(frozen=True)
class Settings:
  """Shapes; by default those of the 16 kHz model that MMAudio uses.

  Attributes:
    num_mels: bins of the spectrogram.
    width: channels before the first stage.
    rates, kernels: of each stage's transposed convolution.
    block_kernels, dilations: every stage has a block for each kernel, every
      block a pair of convolutions for each dilation.
    activation: "snakebeta", or "snake" with b = a in (1).
    log_scale: whether a and b are stored as logarithms.
    tanh, bias: of the last convolution; without tanh the wave is clipped.

  Raises:
    ValueError: an unknown activation, or rates and kernels that do not pair.
  """

  num_mels: int = 80
  width: int = 1536
  rates: tuple[int, ...] = (4, 4, 2, 2, 2, 2)
  kernels: tuple[int, ...] = (8, 8, 4, 4, 4, 4)
  block_kernels: tuple[int, ...] = (3, 7, 11)
  dilations: tuple[int, ...] = (1, 3, 5)
  activation: str = "snakebeta"
  log_scale: bool = True
  tanh: bool = True
  bias: bool = True

  def __post_init__(self):
    if self.activation not in ACTIVATIONS:
      raise ValueError(f"{self.activation=}: expected one of {ACTIVATIONS}.")
    if len(self.rates) != len(self.kernels):
      raise ValueError(f"{self.rates=}, {self.kernels=}: expected pairs.")

  @property
  def hop(self) -> int:
    """Samples for each frame."""
    return math.prod(self.rates)

  @property
  def reach(self) -> int:
    """How many frames on each side a sample depends on, at most."""
    size, dilations = max(self.block_kernels), self.dilations
    block = sum(
      (size - 1) // 2 * (d + 1) + 2 * _ACTIVATION_REACH for d in dilations
    )
    steps = 3 + _ACTIVATION_REACH  # the last convolution has 7 taps
    for rate, size in zip(self.rates[::-1], self.kernels[::-1], strict=True):
      steps = math.ceil((steps + block + (size - rate) // 2) / rate)
    return steps + 3  # and so has the first


BIGVGAN_16K = Settings()
BIGVGAN_44K = Settings(
  num_mels=128, rates=(8, 4, 2, 2, 2, 2), kernels=(16, 8, 4, 4, 4, 4),
  tanh=False, bias=False,
)  # fmt: skip
_ACTIVATION_REACH = 5  # steps on each side


@functools.cache
def low_pass() -> Float[np.ndarray, " taps"]:
  """h: 12 taps, a quarter of the rate, sum 1."""
  cutoff, half_width, half = 0.25, 0.3, _TAPS // 2
  attenuation = 2.285 * (half - 1) * math.pi * 4 * half_width + 7.95
  beta = 0.1102 * (attenuation - 8.7)  # Kaiser's rule above 50 dB: 51 here.
  time = np.arange(-half, half) + 0.5
  taps = np.kaiser(_TAPS, beta) * np.sinc(2 * cutoff * time)
  return (taps / taps.sum()).astype(np.float32)


def sine_squared(x: Float[Array, " *b"]) -> Float[Array, " *b"]:
  """sin(x)^2, as exact as float32 sines, of additions and products only.

  It has period pi and is even about multiples of pi / 2. The polynomial is
  sin(pi r) = r P(r^2) on |r| <= 1/2.
  """
  turns = x * (1 / math.pi)
  r = turns - jnp.round(turns)
  square = jnp.square(r)
  sine = jnp.full_like(r, _SINE[-1])
  for c in _SINE[-2::-1]:
    sine = sine * square + c
  return jnp.square(sine) * square


# Taylor's coefficients of sin(pi r) / r in r^2, enough for float32 at 1/2.
_SINE = tuple(
  (-1) ** k * math.pi ** (2 * k + 1) / math.factorial(2 * k + 1)
  for k in range(6)
)


def hold(
  x: Float[Array, "b t c"],
  before: int,
  after: int,
  first: Float[Array, "b 1 c"],
  last: Float[Array, "b 1 c"],
  num: Num,
) -> Float[Array, "b r c"]:
  """x, or the `num` rows of it that are there, between copies of two rows.

  The barrier has all written to memory once. Otherwise XLA computes each
  element anew for every tap that reads it: ten times slower on a CPU.
  """
  y = jnp.concatenate([first] * before + [x] + [last] * after, axis=1)
  if num is not None:
    tail = jnp.repeat(last, after, axis=1)
    y = jax.lax.dynamic_update_slice_in_dim(y, tail, before + num, axis=1)
  return jax.lax.optimization_barrier(y)


def taps(
  x: Float[Array, "b r c"], weights: np.ndarray, start: int, steps: int
) -> Float[Array, "b t c"]:
  """y[t] = sum_i weights[i] x[t + start + i] for `steps` t."""
  return sum(
    float(w) * x[:, start + i :][:, :steps] for i, w in enumerate(weights)
  )


class Activation(nnx.Module):
  """Equation (1) at twice the rate."""

  def __init__(self, c: int, settings: Settings):
    make = jnp.zeros if settings.log_scale else jnp.ones
    self.log_scale = settings.log_scale
    self.alpha = nnx.Param(make(c))
    beta = settings.activation == "snakebeta"
    self.beta = nnx.Param(make(c)) if beta else None

  def snake(self, x: Float[Array, "b t c"]) -> Float[Array, "b t c"]:
    alpha = self.alpha[...]
    beta = alpha if self.beta is None else self.beta[...]
    if self.log_scale:
      alpha, beta = jnp.exp(alpha), jnp.exp(beta)
    return x + sine_squared(alpha * x) / (beta + 1e-9)

  def __call__(
    self, x: Float[Array, "b t c"], num: Num = None
  ) -> Float[Array, "b t c"]:
    t, h = x.shape[1], low_pass()
    x = hold(x, 3, 3, x[:, :1], _last(x, num), num)
    even = self.snake(taps(x, 2 * h[11::-2], 0, t))
    odd = self.snake(taps(x, 2 * h[10::-2], 1, t))
    ends = (even[:, :1], _last(odd, num))
    even = hold(even, 2, 3, *ends, num)
    odd = hold(odd, 3, 2, *ends, num)
    return taps(even, h[1::2], 0, t) + taps(odd, h[0::2], 0, t)


def _last(x: Float[Array, "b t c"], num: Num) -> Float[Array, "b 1 c"]:
  """The last row that is there."""
  if num is None:
    return x[:, -1:]
  return jax.lax.dynamic_slice_in_dim(x, num - 1, 1, axis=1)


class Conv(nnx.Module):
  """A convolution, or with a rate a transposed one, and its bias."""

  def __init__(
    self, c_in: int, c_out: int, size: int, *, rngs: nnx.Rngs,
    dilation: int = 1, rate: int | None = None, bias: bool = True,
  ):  # fmt: skip
    self.dilation, self.rate = dilation, rate
    kernel = jax.random.normal(rngs.params(), (size, c_in, c_out))
    self.kernel = nnx.Param(kernel / math.sqrt(size * c_in / (rate or 1)))
    self.bias = nnx.Param(jnp.zeros(c_out)) if bias else None

  def __call__(
    self, x: Float[Array, "b t c"], num: Num = None
  ) -> Float[Array, "b r d"]:
    if self.rate is None:
      y = conv(x, self.kernel[...], self.dilation, num)
    else:
      y = conv_up(x, self.kernel[...], self.rate, num)
    return y if self.bias is None else y + self.bias[...]


class Block(nnx.Module):
  """Pairs of convolutions, the first of each dilated, each pair a residual."""

  def __init__(self, c: int, size: int, settings: Settings, *, rngs: nnx.Rngs):
    dilations = settings.dilations
    self.convs1 = nnx.List(
      [Conv(c, c, size, dilation=d, rngs=rngs) for d in dilations]
    )
    self.convs2 = nnx.List([Conv(c, c, size, rngs=rngs) for _ in dilations])
    self.activations = nnx.List(
      [Activation(c, settings) for _ in range(2 * len(dilations))]
    )

  def __call__(
    self, x: Float[Array, "b t c"], num: Num
  ) -> Float[Array, "b t c"]:
    for i in range(len(self.convs1)):
      y = self.convs1[i](self.activations[2 * i](x, num), num)
      x = x + self.convs2[i](self.activations[2 * i + 1](y, num), num)
    return x


class BigVGAN(nnx.Module):
  """The generator; blocks of all stages are one list, as in its files."""

  def __init__(self, settings: Settings, *, rngs: nnx.Rngs):
    self.settings = settings
    c = settings.width
    self.conv_pre = Conv(settings.num_mels, c, 7, rngs=rngs)
    self.ups, self.blocks = nnx.List(), nnx.List()
    for rate, size in zip(settings.rates, settings.kernels, strict=True):
      self.ups.append(Conv(c, c // 2, size, rate=rate, rngs=rngs))
      c //= 2
      for size in settings.block_kernels:
        self.blocks.append(Block(c, size, settings, rngs=rngs))
    self.activation_post = Activation(c, settings)
    self.conv_post = Conv(c, 1, 7, bias=settings.bias, rngs=rngs)

  def __call__(
    self, mel: Float[Array, "b t mel"], num: Num = None
  ) -> Float[Array, "b s"]:
    """The wave of s = hop t samples.

    Args:
      mel: float32 log-mel as its codec makes it (not normalised).
      num: how many frames of it are there; the samples after them are noise.

    Raises:
      ValueError: another dtype, of mel or parameters.
    """
    for name, dtype in (
      ("mel", mel.dtype), ("parameters", self.conv_pre.kernel[...].dtype),
    ):  # fmt: skip
      if dtype != jnp.float32:
        raise ValueError(
          f"the vocoder's {name} are {dtype}: it runs in float32 (bfloat16"
          " breaks its sound); cast them."
        )
    settings, x = self.settings, self.conv_pre(mel, num)
    blocks = iter(self.blocks)
    for up, rate in zip(self.ups, settings.rates, strict=True):
      x = up(x, num)
      num = None if num is None else num * rate
      own = [next(blocks) for _ in settings.block_kernels]
      x = sum(block(x, num) for block in own) / len(own)
    x = self.conv_post(self.activation_post(x, num), num)[..., 0]
    return jnp.tanh(x) if settings.tanh else jnp.clip(x, -1, 1)

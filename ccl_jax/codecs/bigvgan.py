"""BigVGAN: log-mel (b, t, num_mels) -> wave (b, hop t) in [-1, 1].

Each stage multiplies the rate and halves the channels, then takes the mean of
residual blocks of dilated convolutions with periodic activations (`snake`) in
between (Lee et al. 2022). Everything is float32; bfloat16 is an error, because
it audibly breaks the phase of the activation.

`num` (see `time_conv`) is the number of valid frames.
"""

import dataclasses
import math

import jax.numpy as jnp
from flax import nnx

from ccl_jax.array_types import Array, Float
from ccl_jax.codecs.snake import REACH, Snake
from ccl_jax.codecs.time_conv import Conv, Num

ACTIVATIONS = ("snake", "snakebeta")


@dataclasses.dataclass(frozen=True)
class BigVGANConfig:
  """Sizes; by default those of the 16 kHz model that MMAudio uses.

  Attributes:
    num_mels: bins of the spectrogram.
    width: channels before the first stage.
    rates, kernels: strides and sizes of each stage's transposed convolution.
    block_kernels, dilations: every stage has a block for each kernel, every
      block a pair of convolutions for each dilation.
    activation: "snakebeta", or "snake" with b = a (see `snake`).
    log_scale: a and b are stored as logarithms.
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

  def make_activation(self, c: int) -> Snake:
    """Returns an activation of c channels."""
    return Snake(c, self.activation == "snakebeta", self.log_scale)

  @property
  def hop(self) -> int:
    """Samples per frame."""
    return math.prod(self.rates)

  @property
  def reach(self) -> int:
    """Frames on each side that a sample depends on, at most."""
    size, dilations = max(self.block_kernels), self.dilations
    block = sum((size - 1) // 2 * (d + 1) + 2 * REACH for d in dilations)
    # From the output back to the input, in steps of each stage's rate.
    steps = 3 + REACH  # The last convolution has 7 taps.
    for rate, size in zip(self.rates[::-1], self.kernels[::-1], strict=True):
      steps = math.ceil((steps + block + (size - rate) // 2) / rate)
    return steps + 3  # The first one has 7 taps too.


BIGVGAN_16K = BigVGANConfig()
BIGVGAN_44K = BigVGANConfig(
  num_mels=128, rates=(8, 4, 2, 2, 2, 2), kernels=(16, 8, 4, 4, 4, 4),
  tanh=False, bias=False,
)  # fmt: skip


class Block(nnx.Module):
  """Residual pairs of convolutions, the first of each pair dilated."""

  def __init__(
    self, c: int, size: int, config: BigVGANConfig, *, rngs: nnx.Rngs
  ):
    dilations = config.dilations
    self.convs1 = nnx.List(
      [Conv(c, c, size, dilation=d, rngs=rngs) for d in dilations]
    )
    self.convs2 = nnx.List([Conv(c, c, size, rngs=rngs) for _ in dilations])
    self.activations = nnx.List(
      [config.make_activation(c) for _ in range(2 * len(dilations))]
    )

  def __call__(
    self, x: Float[Array, "b t c"], num: Num
  ) -> Float[Array, "b t c"]:
    for i in range(len(self.convs1)):
      y = self.convs1[i](self.activations[2 * i](x, num), num)
      x = x + self.convs2[i](self.activations[2 * i + 1](y, num), num)
    return x


class BigVGAN(nnx.Module):
  """The generator; the blocks of all stages are one list, as in its files."""

  def __init__(self, config: BigVGANConfig, *, rngs: nnx.Rngs):
    self.config = config
    c = config.width
    self.conv_pre = Conv(config.num_mels, c, 7, rngs=rngs)
    self.ups, self.blocks = nnx.List(), nnx.List()
    for rate, size in zip(config.rates, config.kernels, strict=True):
      self.ups.append(Conv(c, c // 2, size, rate=rate, rngs=rngs))
      c //= 2
      for size in config.block_kernels:
        self.blocks.append(Block(c, size, config, rngs=rngs))
    self.activation_post = config.make_activation(c)
    self.conv_post = Conv(c, 1, 7, bias=config.bias, rngs=rngs)

  def __call__(
    self, mel: Float[Array, "b t mel"], num: Num = None
  ) -> Float[Array, "b s"]:
    """Returns the wave of s = hop t samples.

    Args:
      mel: float32 log-mel of `codecs.mel`, not normalised.
      num: number of valid frames; the samples after them are undefined.

    Raises:
      ValueError: mel or parameters in another dtype.
    """
    for name, dtype in (
      ("mel", mel.dtype), ("parameters", self.conv_pre.kernel[...].dtype),
    ):  # fmt: skip
      if dtype != jnp.float32:
        raise ValueError(
          f"the vocoder's {name} are {dtype}: it runs in float32 (bfloat16"
          " breaks its sound); cast them."
        )
    config, x = self.config, self.conv_pre(mel, num)
    blocks = iter(self.blocks)
    for up, rate in zip(self.ups, config.rates, strict=True):
      x = up(x, num)
      num = None if num is None else num * rate
      own = [next(blocks) for _ in config.block_kernels]
      x = sum(block(x, num) for block in own) / len(own)
    x = self.conv_post(self.activation_post(x, num), num)[..., 0]
    return jnp.tanh(x) if config.tanh else jnp.clip(x, -1, 1)

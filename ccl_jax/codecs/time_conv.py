"""Convolutions over time, (b, t, c) -> (b, t', c'), for the audio networks.

Products have the highest precision: float32 is not reduced on any platform.
With `num`, only the first `num` steps of x are valid: the others may hold any
finite value, as the valid results do not depend on them. One compiled program
thus serves all shorter lengths.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from ccl_jax.array_types import Array, Float, Int

Num = Int[Array, ""] | None
PRECISION = jax.lax.Precision.HIGHEST


def zero_after(x: Float[Array, "b t c"], num: Num) -> Float[Array, "b t c"]:
  """Returns x with zeros from step `num` on, like the padding."""
  if num is None:
    return x
  return jnp.where(jnp.arange(x.shape[1])[:, None] < num, x, 0)


def conv(
  x: Float[Array, "b t c"],
  kernel: Float[Array, "x c d"],
  dilation: int = 1,
  num: Num = None,
) -> Float[Array, "b t d"]:
  """Returns y[t] = sum_i x[t + (i - size // 2) dilation] kernel[i].

  x is zero outside.
  """
  size = len(kernel)
  if size > 1:
    x = zero_after(x, num)
  reach = (size - 1) * dilation
  return jax.lax.conv_general_dilated(
    x,
    kernel.astype(x.dtype),
    window_strides=(1,),
    padding=((reach // 2, reach - reach // 2),),
    rhs_dilation=(dilation,),
    dimension_numbers=("NWC", "WIO", "NWC"),
    precision=PRECISION,
  )


def conv_transpose(
  x: Float[Array, "b t c"],
  kernel: Float[Array, "x c d"],
  rate: int,
  num: Num = None,
) -> Float[Array, "b r d"]:
  """Returns a transposed convolution: y[rate t + i - cut] += x[t] kernel[i].

  With cut = (size - rate) / 2 there are exactly `rate` results for each step.
  Each group of `rate` results is a sum over the same size / rate steps, so that
  all are one matrix product, without the zeros of a dilated input.

  Raises:
    ValueError: a kernel whose size is not a multiple of the rate, or that
      cannot be cut evenly.
  """
  size, _, d = kernel.shape
  if size % rate or (size - rate) % 2:
    raise ValueError(f"{kernel.shape=}: not a multiple of {rate=}, evenly cut.")
  reach, cut = size // rate, (size - rate) // 2
  b, t, c = x.shape
  x = jnp.pad(zero_after(x, num), ((0, 0), (reach - 1, reach - 1), (0, 0)))
  steps = t + reach - 1
  shifted = [x[:, reach - 1 - i :][:, :steps] for i in range(reach)]
  kernel = kernel.astype(x.dtype).reshape(reach, rate, c, d)
  y = jnp.einsum(
    "bqic,ircd->bqrd",
    jnp.stack(shifted, 2),
    kernel,
    precision=PRECISION,
  )
  return y.reshape(b, steps * rate, d)[:, cut : cut + t * rate]


class Conv(nnx.Module):
  """`conv`, or `conv_transpose` if there is a rate, and a bias."""

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
      y = conv_transpose(x, self.kernel[...], self.rate, num)
    return y if self.bias is None else y + self.bias[None, None]

"""Convolutions over time, (b, t, c) -> (b, t', c'), for the sound's networks.

Numbers are multiplied at the highest precision: in float32 truly float32, on
every platform. Where `num` is given, only the first `num` steps of x are there:
the others may hold anything, as the first results do not depend on them, so
that one compiled program serves every shorter length.
"""

import jax
import jax.numpy as jnp

from ccl_jax.array_types import Array, Float, Int

PRECISION = jax.lax.Precision.HIGHEST


def zero_after(
  x: Float[Array, "b t c"], num: Int[Array, ""] | None
) -> Float[Array, "b t c"]:
  """x with zeros from step `num` on: what a padded convolution sees there."""
  if num is None:
    return x
  return jnp.where(jnp.arange(x.shape[1])[:, None] < num, x, 0)


def conv(
  x: Float[Array, "b t c"],
  kernel: Float[Array, "x c d"],
  dilation: int = 1,
  num: Int[Array, ""] | None = None,
) -> Float[Array, "b t d"]:
  """y[t] = sum_i x[t + (i - size // 2) dilation] kernel[i], zeros outside."""
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


def conv_up(
  x: Float[Array, "b t c"],
  kernel: Float[Array, "x c d"],
  rate: int,
  num: Int[Array, ""] | None = None,
) -> Float[Array, "b r d"]:
  """Transposed convolution: x[t] kernel[i] is added to y[rate t + i - cut].

  With cut = (size - rate) / 2 there are exactly `rate` results for each step.
  Results come in groups of `rate`, each a sum over the few steps that reach it:
  one matrix product without the zeros of a dilated input.

  Raises:
    ValueError: a kernel whose size is no multiple of the rate, or that cannot
      be cut evenly.
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

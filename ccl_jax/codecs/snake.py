"""BigVGAN's periodic activation, applied at twice the rate of its input.

The frequencies that it adds above the input's band are filtered out again
(Karras et al. 2021):

  up      u[2t], u[2t + 1] = 2 sum_i h[.] x[t + i]      two phases of 6 taps (1)
  snake   v = u + sin(a u)^2 / b                        a, b per channel     (2)
  down    y[t] = sum_j h[j] v[2t + j - 5]               12 taps              (3)

h is a Kaiser-windowed sinc; beyond their ends, signals keep their first and
last values. The two phases, even and odd u, are never interleaved: each filter
is a sum of shifted rows.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ccl_jax.array_types import Array, Float
from ccl_jax.codecs.time_conv import Num

REACH = 5  # Steps on each side that a result depends on.
_TAPS = 12


@functools.cache
def low_pass() -> Float[np.ndarray, " taps"]:
  """Returns h: 12 taps of sum 1, with cutoff at a quarter of the rate."""
  cutoff, half_width, half = 0.25, 0.3, _TAPS // 2
  attenuation = 2.285 * (half - 1) * math.pi * 4 * half_width + 7.95
  beta = 0.1102 * (attenuation - 8.7)  # Kaiser's rule above 50 dB: 51 here.
  time = np.arange(-half, half) + 0.5
  taps = np.kaiser(_TAPS, beta) * np.sinc(2 * cutoff * time)
  return (taps / taps.sum()).astype(np.float32)


def sine_squared(x: Float[Array, " *b"]) -> Float[Array, " *b"]:
  """Returns sin(x)^2 to float32 precision, by additions and products only.

  Its period is pi, so x / pi is reduced to |r| <= 1/2, where
  sin(pi r) = r P(r^2) with a polynomial P.
  """
  turns = x * (1 / math.pi)
  r = turns - jnp.round(turns)
  square = jnp.square(r)
  sine = jnp.full_like(r, _SINE[-1])
  for c in _SINE[-2::-1]:
    sine = sine * square + c
  return jnp.square(sine) * square


# P: Taylor's coefficients of sin(pi r) / r in r^2, enough for float32 at 1/2.
_SINE = tuple(
  (-1) ** k * math.pi ** (2 * k + 1) / math.factorial(2 * k + 1)
  for k in range(6)
)


def pad_edges(
  x: Float[Array, "b t c"],
  before: int,
  after: int,
  first: Float[Array, "b 1 c"],
  last: Float[Array, "b 1 c"],
  num: Num,
) -> Float[Array, "b r c"]:
  """Returns x or its `num` valid rows, between copies of `first` and `last`."""
  y = jnp.concatenate([first] * before + [x] + [last] * after, axis=1)
  if num is not None:
    tail = jnp.repeat(last, after, axis=1)
    y = jax.lax.dynamic_update_slice_in_dim(y, tail, before + num, axis=1)
  # The barrier writes y to memory. Without it XLA computes each element again
  # for every tap that reads it: ten times slower on a CPU.
  return jax.lax.optimization_barrier(y)


def correlate(
  x: Float[Array, "b r c"], weights: np.ndarray, start: int, steps: int
) -> Float[Array, "b t c"]:
  """Returns y[t] = sum_i weights[i] x[t + start + i] for t < steps."""
  return sum(
    float(w) * x[:, start + i :][:, :steps] for i, w in enumerate(weights)
  )


class Snake(nnx.Module):
  """(1) to (3), with parameters for every channel.

  Args:
    c: channels.
    beta: b has its own parameters; otherwise it is a.
    log_scale: a and b are stored as logarithms.
  """

  def __init__(self, c: int, beta: bool, log_scale: bool):
    make = jnp.zeros if log_scale else jnp.ones
    self.log_scale = log_scale
    self.alpha = nnx.Param(make(c))
    self.beta = nnx.Param(make(c)) if beta else None

  def snake(self, x: Float[Array, "b t c"]) -> Float[Array, "b t c"]:
    """Returns (2)."""
    alpha = self.alpha[None, None]
    beta = alpha if self.beta is None else self.beta[None, None]
    if self.log_scale:
      alpha, beta = jnp.exp(alpha), jnp.exp(beta)
    return x + sine_squared(alpha * x) / (beta + 1e-9)

  def __call__(
    self, x: Float[Array, "b t c"], num: Num = None
  ) -> Float[Array, "b t c"]:
    t, h = x.shape[1], low_pass()
    x = pad_edges(x, 3, 3, x[:, :1], _last(x, num), num)
    even = self.snake(correlate(x, 2 * h[11::-2], 0, t))
    odd = self.snake(correlate(x, 2 * h[10::-2], 1, t))
    ends = (even[:, :1], _last(odd, num))
    even = pad_edges(even, 2, 3, *ends, num)
    odd = pad_edges(odd, 3, 2, *ends, num)
    return correlate(even, h[1::2], 0, t) + correlate(odd, h[0::2], 0, t)


def _last(x: Float[Array, "b t c"], num: Num) -> Float[Array, "b 1 c"]:
  """Returns the last valid row."""
  if num is None:
    return x[:, -1:]
  return jax.lax.dynamic_slice_in_dim(x, num - 1, 1, axis=1)

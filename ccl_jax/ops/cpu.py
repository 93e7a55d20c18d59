"""Operations that are computed in another way when XLA compiles for a CPU.

Nothing here changes the program of a TPU or a GPU. Without each of these, a
training step of the tiny model takes longer by (2 cores of an AMD EPYC, jax
0.10.2, `python -m tests.bench.cpu_cases`):

    dot_general 41 %   MAX_DENSE_PAIRS 10 %   rotate 5 %   branch 2 %

The last two are kept because results would differ in the last bit from those of
earlier versions without them.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange

from ccl_jax.array_types import Array, PyTree

# Up to this number of (query, key) pairs, dense attention is faster than
# attention to the keys of each frame.
MAX_DENSE_PAIRS = 2**16


def replaced_on_cpu(replacement: Callable) -> Callable:
  """Returns a decorator: on a CPU, `replacement` is called instead."""

  def decorate(function):
    @functools.wraps(function)
    def call(*args):
      return jax.lax.platform_dependent(
        *args, cpu=replacement, default=function
      )

    return call

  return decorate


def rotate(x: Array, angles: Array) -> Array:
  """Replaces `rope.rotate`: x (cos, cos) + (x with halves swapped) (-sin, sin).

  A CPU computes with full vectors; it copies to concatenate the turned halves.
  """
  angles = angles[None, :, None]
  cos, sin = jnp.cos(angles), jnp.sin(angles)
  cos, sin = jnp.concatenate([cos, cos], -1), jnp.concatenate([-sin, sin], -1)
  y = x.astype(jnp.float32)
  first, second = jnp.split(y, 2, -1)
  swapped = jnp.concatenate([second, first], -1)
  return (y * cos + swapped * sin).astype(x.dtype)


def branch(is_true: Array, update: Callable[..., dict]) -> Callable:
  """Returns update(state, ...) if true, else the state, as a branch.

  A CPU copies parameters and moments for a select.
  """

  def call(state: PyTree, *args) -> PyTree:
    return jax.lax.cond(
      is_true, update, lambda state, *_: dict(state), state, *args
    )

  return call


def dot_general(x: Array, kernel: Array, dims: Any, **options) -> Array:
  """Computes x @ kernel for a linear layer.

  A kernel's gradient contracts the axes of the rows, and a CPU transposes if
  there are several: there, all rows become one axis. Elsewhere they stay apart,
  so that each can be sharded.
  """

  def default(x, kernel):
    return jax.lax.dot_general(x, kernel, dims, **options)

  def flat(x, kernel):
    rows = x.reshape(-1, x.shape[-1])
    y = jax.lax.dot_general(rows, kernel, (((1,), (0,)), ((), ())), **options)
    return y.reshape(*x.shape[:-1], y.shape[-1])

  return jax.lax.platform_dependent(x, kernel, cpu=flat, default=default)


def convolve_video(
  x: Array,
  kernel: Array,
  strides: tuple[int, int, int],
  pad: tuple[int, int],
  precision: jax.lax.Precision,
) -> Array:
  """Convolves (b, t, y, x, c) over time, and over pictures with zeros around.

  A CPU is slow at three dimensions: there, it is a sum of convolutions of
  pictures, one for each frame of the kernel.
  """

  def default(x, kernel):
    return jax.lax.conv_general_dilated(
      x, kernel, strides, [(0, 0), pad, pad], precision=precision,
      dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    )  # fmt: skip

  def by_frame(x, kernel):
    last = x.shape[1] - len(kernel)
    parts = [
      jax.lax.conv_general_dilated(
        rearrange(x[:, i : last + i + 1 : strides[0]], "b t ... -> (b t) ..."),
        frame, strides[1:], [pad, pad], precision=precision,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
      )
      for i, frame in enumerate(kernel)
    ]  # fmt: skip
    return rearrange(sum(parts), "(b t) ... -> b t ...", b=len(x))

  return jax.lax.platform_dependent(x, kernel, cpu=by_frame, default=default)

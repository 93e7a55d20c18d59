"""What is computed otherwise when XLA compiles for a CPU.

Nothing here changes a TPU's or a GPU's program. Each case is kept because it
pays (2 cores of an AMD EPYC, jax 0.10.2): without `dot_general` a training
step of the tiny model takes 1.41 times as long, without `MAX_DENSE_PAIRS` 1.10
times (`python -m tests.bench.train_step`).
"""

from typing import Any

import jax
from einops import rearrange

from ccl_jax.array_types import Array

# Up to this number of (query, key) pairs, dense attention is faster than
# attention to the keys of each frame.
MAX_DENSE_PAIRS = 2**16


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

"""The matrix products of a program, and their FLOPs.

FLOPs are twice the multiplications that are executed:

    dot           2 |result| prod(contracted dims)
    convolution   2 batch out_features in_features prod_d valid_d

(a TPU compiler writes dots as convolutions), where valid_d counts the pairs of
output and window position along spatial axis d that read an element, not
padding or a hole of dilation.
"""

import math
import re

import numpy as np

from ccl_jax.cost.hlo import Op, Program
from ccl_jax.cost.hlo_loops import ExecutedOp, executed_ops

# What a window has along each axis, with the values that the text leaves out.
_WINDOW = dict(size=1, stride=1, pad=0, lhs_dilate=1, rhs_dilate=1)


def matmul_flops(program: Program) -> float:
  """Counts FLOPs of all matrix products in one run, also inside of fusions."""
  count = {"dot": dot_flops, "convolution": convolution_flops}
  return sum(
    count[each.op.opcode](each) * each.count
    for each in executed_ops(program)
    if each.op.opcode in count
  )


def dot_flops(dot: ExecutedOp) -> float:
  """Counts FLOPs of one execution of a `dot`."""
  (_, result), (_, lhs) = dot.op.arrays[0], dot.operand(0).arrays[0]
  dims = (dot.op.attribute("lhs_contracting_dims") or "{}").strip("{}")
  contracted = [lhs[int(i)] for i in dims.split(",") if i]
  return 2.0 * math.prod(result) * math.prod(contracted)


def convolution_flops(conv: ExecutedOp) -> float:
  """Counts FLOPs of one execution of a `convolution`."""
  lhs, rhs, out = (
    dict(zip(labels, op.arrays[0][1], strict=True))
    for labels, op in zip(
      re.split("_|->", conv.op.attribute("dim_labels")),
      (conv.operand(0), conv.operand(1), conv.op),
      strict=True,
    )
  )
  flops = 2.0 * out["b"] * out["f"] * rhs["i"]
  for d, options in enumerate(_window(conv.op, rank=len(out) - 2)):
    flops *= _valid(lhs[str(d)], out[str(d)], **options)
  return flops


def _valid(
  length: int, out: int, *, size: int, stride: int, pad: int, lhs_dilate: int,
  rhs_dilate: int,
) -> int:  # fmt: skip
  """Returns how many (output o, window k) hit an element of the operand.

  They look at position o stride + k rhs_dilate - pad; element i is at
  i lhs_dilate.
  """
  reach = (out - 1) * stride + (size - 1) * rhs_dilate
  if pad == 0 and lhs_dilate == 1 and reach < length:
    return out * size
  long, short = (out, stride), (size, rhs_dilate)
  if size > out:
    long, short = short, long
  base = np.arange(long[0], dtype=np.int64) * long[1] - pad
  total = 0
  for i in range(short[0]):
    at = base + i * short[1]
    inside = (at >= 0) & (at <= (length - 1) * lhs_dilate)
    total += int((inside & (at % lhs_dilate == 0)).sum())
  return total


def _window(op: Op, rank: int) -> list[dict[str, int]]:
  """Reads the window of each spatial axis, `window={size=8x1 pad=0_0x0_0}`."""
  fields = (op.attribute("window") or "").strip("{}").split()
  given = {k: v.split("x") for k, v in (x.split("=") for x in fields)}
  return [
    {
      key: int(given[key][i].split("_")[0]) if key in given else default
      for key, default in _WINDOW.items()
    }
    for i in range(rank)
  ]

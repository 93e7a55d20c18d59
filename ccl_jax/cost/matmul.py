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
  length: int, out: int, size: int, stride: int, pad: int, dilate: int,
  hole: int,
) -> int:  # fmt: skip
  """Returns how many (output o, window k) hit an element of the operand.

  They look at position o stride + k hole - pad; element i is at i dilate.
  """
  if (
    pad == 0 and dilate == 1 and (out - 1) * stride + (size - 1) * hole < length
  ):
    return out * size
  long, short = (out, stride), (size, hole)
  if size > out:
    long, short = short, long
  base = np.arange(long[0], dtype=np.int64) * long[1] - pad
  total = 0
  for i in range(short[0]):
    at = base + i * short[1]
    inside = (at >= 0) & (at <= (length - 1) * dilate) & (at % dilate == 0)
    total += int(inside.sum())
  return total


def _window(op: Op, rank: int) -> list[dict[str, int]]:
  """Reads the window of each spatial axis, `window={size=8x1 pad=0_0x0_0}`."""
  fields = (op.attribute("window") or "").strip("{}").split()
  columns = {k: v.split("x") for k, v in (x.split("=") for x in fields)}

  def read(key, default):
    return [int(v.split("_")[0]) for v in columns.get(key, [default] * rank)]

  rows = zip(
    read("size", "1"), read("stride", "1"), read("pad", "0"),
    read("lhs_dilate", "1"), read("rhs_dilate", "1"), strict=True,
  )  # fmt: skip
  names = ("size", "stride", "pad", "dilate", "hole")
  return [dict(zip(names, row, strict=True)) for row in rows]

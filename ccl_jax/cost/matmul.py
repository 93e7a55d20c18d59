"""The matrix products of a program, and their FLOPs.

FLOPs are 2 x the multiplications that are really done:

    dot           2 |result| prod(contracted dims)
    convolution   2 batch out_features in_features prod_d valid_d

(a TPU writes dots as convolutions) where valid_d counts pairs of output and
window position of spatial axis d that meet an element, neither padding nor a
hole of dilation.
"""

import dataclasses
import math
import re

import numpy as np

from ccl_jax.cost.hlo import Op, Program
from ccl_jax.cost.hlo_loops import Loop, Run, runs


@dataclasses.dataclass(frozen=True)
class Product:
  """A dot or convolution: FLOPs once, executions, loop, jax operation."""

  flops: float
  count: int
  loop: Loop | None
  source: str


def products(program: Program) -> list[Product]:
  """Every matrix product, inside of fusions too."""
  count = {"dot": dot_flops, "convolution": convolution_flops}
  return [
    Product(count[r.op.opcode](r), r.count, r.loop, r.op.source)
    for r in runs(program)
    if r.op.opcode in count
  ]


def matmul_flops(program: Program) -> float:
  """FLOPs of all matrix products in one run of the program."""
  return sum(p.flops * p.count for p in products(program))


def dot_flops(run: Run) -> float:
  """FLOPs of one execution of a `dot`."""
  dims = run.operand(0).arrays[0][1]
  contracted = _braced(run.op, "lhs_contracting_dims")
  return (
    2.0
    * math.prod(run.op.arrays[0][1])
    * math.prod(dims[i] for i in contracted)
  )


def convolution_flops(run: Run) -> float:
  """FLOPs of one execution of a `convolution`."""
  lhs, rhs, out = (
    labels for labels in re.split("_|->", run.op.attribute("dim_labels"))
  )
  sizes = [
    dict(zip(labels, array[1], strict=True))
    for labels, array in (
      (lhs, run.operand(0).arrays[0]),
      (rhs, run.operand(1).arrays[0]),
      (out, run.op.arrays[0]),
    )
  ]
  window = _window(run.op, sum(letter.isdigit() for letter in out))
  flops = 2.0 * sizes[2]["b"] * sizes[2]["f"] * sizes[1]["i"]
  for d, options in enumerate(window):
    flops *= _valid(sizes[0][str(d)], sizes[2][str(d)], **options)
  return flops


def _valid(
  length: int, out: int, size: int, stride: int, pad: int, dilate: int,
  hole: int,
) -> int:  # fmt: skip
  """Pairs (output o, window k) with an element at o stride + k hole - pad.

  Element i of the operand stands at i * dilate.
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
  """The window of each spatial axis: `window={size=8x1 pad=0_0x0_0 ...}`."""
  given = dict(
    part.split("=")
    for part in (op.attribute("window") or "").strip("{}").split()
  )
  columns = {k: v.split("x") for k, v in given.items()}

  def read(key, default):
    return [int(v.split("_")[0]) for v in columns.get(key, [default] * rank)]

  rows = zip(
    read("size", "1"), read("stride", "1"), read("pad", "0"),
    read("lhs_dilate", "1"), read("rhs_dilate", "1"), strict=True,
  )  # fmt: skip
  names = ("size", "stride", "pad", "dilate", "hole")
  return [dict(zip(names, row, strict=True)) for row in rows]


def _braced(op: Op, key: str) -> list[int]:
  value = (op.attribute(key) or "{}").strip("{}")
  return [int(v) for v in value.split(",") if v]

"""Pallas kernels of a program; they are opaque, so FLOPs are by formula."""

import base64
import dataclasses
import functools
import math
import re

from jax._src.lib import tpu
from jax._src.lib.mlir import ir

from ccl_jax.cost.hlo import Array, Op, Program
from ccl_jax.cost.hlo_loops import executed_ops

_PHASE = re.compile(r"splash_\w*?_(fwd|dkv_dq|dkv|dq)_")


@dataclasses.dataclass(frozen=True)
class Kernel:
  """A custom call: its name, operand and result arrays, executions.

  Attributes:
    op: the name of the custom call in the program.
    parallel_turns: turns of its grid that the cores of a chip can share, the
      product of the "parallel" axes; 1 where the program does not tell.
  """

  name: str
  operands: tuple[Array, ...]
  results: tuple[Array, ...]
  count: int
  op: str
  parallel_turns: int = 1


def kernels(program: Program) -> list[Kernel]:
  """Returns the Pallas kernels."""
  found = []
  for each in executed_ops(program):
    op = each.op
    if op.attribute("custom_call_target") == '"tpu_custom_call"':
      operands = [
        a for i in range(len(op.operands)) for a in each.operand(i).arrays
      ]
      turns = parallel_turns(op.attributes)
      found.append(
        Kernel(
          _kernel_name(op), tuple(operands), tuple(op.arrays), each.count,
          op.name, turns,
        )
      )  # fmt: skip
  return found


def is_attention(kernel: Kernel) -> bool:
  """Returns whether `splash_flops` knows the kernel."""
  return _PHASE.search(kernel.name) is not None


def splash_flops(kernel: Kernel) -> tuple[float, float]:
  """Counts FLOPs of one run of a kernel that `is_attention`, from shapes.

  Shapes are those of its queries (.., heads, n, e) and keys (.., heads, m, e)
  with padding. A product of all queries with all keys is 2 n m e FLOPs:

              needed    recomputed
    fwd       s, out
    dq        dp, dq    s
    dkv       dk, dv    s, dp
    dkv_dq    all 4     s             one kernel for the backward pass

  Returns:
    FLOPs: (needed, recomputed).
  """
  phase = _PHASE.search(kernel.name)
  products = {"fwd": (2, 0), "dq": (2, 1), "dkv": (2, 2), "dkv_dq": (4, 1)}
  q, k = [dims for dtype, dims in kernel.operands if "f" in dtype][:2]
  product = 2.0 * math.prod(q) * k[-2]
  needed, recomputed = products[phase[1]]
  return needed * product, recomputed * product


@functools.cache
def parallel_turns(text: str) -> int:
  """Returns the product of the parallel axes of a Mosaic kernel's grid.

  Args:
    text: of the custom call; its config holds the module, base64 of MLIR
      bytecode.
  """
  body = re.search(r'body(?:\\22|"): ?(?:\\22|")([A-Za-z0-9+/=]+)', text)
  if body is None:
    return 1
  with ir.Context() as context:
    context.allow_unregistered_dialects = True  # "stable_mosaic"
    tpu.register_dialect(context)
    module = str(ir.Module.parse(base64.b64decode(body[1])))
  axes = re.search(r"dimension_semantics = \[(.*?)\]", module)
  bounds = re.search(r"iteration_bounds = array<i64: ([\d, ]+)>", module)
  if axes is None or bounds is None:
    return 1
  return math.prod(
    int(bound)
    for axis, bound in zip(
      axes[1].split(", "), bounds[1].split(", "), strict=True
    )
    if "parallel" in axis
  )


def _kernel_name(op: Op) -> str:
  found = re.search(r'kernel_name = "([^"]*)"', op.attributes)
  return found[1] if found else re.sub(r"\.\d+$", "", op.name)

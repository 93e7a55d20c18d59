"""Pallas kernels in a program: opaque, so their FLOPs come from a formula."""

import dataclasses
import math
import re

from ccl_jax.cost.hlo import Array, Op, Program
from ccl_jax.cost.hlo_loops import Loop, runs


@dataclasses.dataclass(frozen=True)
class Kernel:
  """A custom call: its name, operand and result arrays, executions."""

  name: str
  operands: tuple[Array, ...]
  results: tuple[Array, ...]
  count: int
  loop: Loop | None


def kernels(program: Program, target: str = "tpu_custom_call") -> list[Kernel]:
  """Pallas kernels, or other custom calls of that target."""
  found = []
  for run in runs(program):
    if run.op.attribute("custom_call_target") == f'"{target}"':
      operands = [
        a for i in range(len(run.op.operands)) for a in run.operand(i).arrays
      ]
      found.append(
        Kernel(
          _kernel_name(run.op), tuple(operands), tuple(run.op.arrays),
          run.count, run.loop,
        )
      )  # fmt: skip
  return found


def splash_flops(
  kernel: Kernel, *, visible: float = 1.0, fused: bool = False
) -> float:
  """FLOPs of one execution of a splash attention kernel, from its shapes.

  Queries (.., heads, n, e) and keys (.., heads, m, e), as padded as the kernel
  got them; "fwd" has 2 products of 2 n m e, "dq" 3, "dkv" 4 and 5 where it is
  `fused` with dq (both recompute the scores). `visible` is the share of blocks
  that the mask lets through.

  Raises:
    ValueError: another kernel.
  """
  phase = re.search(r"splash_\w*?_(fwd|dq|dkv)_", kernel.name)
  if phase is None:
    raise ValueError(f"{kernel.name=} is not one of splash attention.")
  count = {"fwd": 2, "dq": 3, "dkv": 5 if fused else 4}[phase[1]]
  q, k = [dims for dtype, dims in kernel.operands if "f" in dtype][:2]
  return 2.0 * count * visible * math.prod(q) * k[-2]


def _kernel_name(op: Op) -> str:
  found = re.search(r'kernel_name = "([^"]*)"', op.attributes)
  return found[1] if found else re.sub(r"\.\d+$", "", op.name)

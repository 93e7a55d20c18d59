"""Data that a program copies without changing it.

The layout of activations changes at transposes between matrix products and
kernels. The compiled program does this by separate ops, or by fusions that
consist only of copies and transposes. Prefetches into on-chip memory
(`copy-start`) are not counted, except to and from the host.
"""

import dataclasses

from ccl_jax.cost.hlo import Program, size
from ccl_jax.cost.hlo_loops import ExecutedOp, Loop, executed_ops

_MOVES = {"copy", "transpose"}
_SILENT = {"parameter", "bitcast", "reshape", "tuple", "get-tuple-element"}
_HOST = "S(5)"  # the memory space of the host in a layout


@dataclasses.dataclass(frozen=True)
class Copy:
  """One op that copies.

  Attributes:
    kind: "copy", "transpose", "fusion" or "host" (offloading).
    bytes: of its result, once.
    count: executions in one run of the program.
    loop: the innermost loop around it.
  """

  kind: str
  bytes: int
  count: int
  loop: Loop | None


def copies(program: Program, min_bytes: int) -> list[Copy]:
  """Returns copies of at least `min_bytes`, outside other fusions."""
  found = []
  for each in executed_ops(program):
    kind = "" if each.fusion else _kind(program, each)
    # A copy-start is (destination, source, context).
    moved = size(each.op.arrays[:1]) if kind == "host" else each.op.bytes
    if kind and moved >= min_bytes:
      found.append(Copy(kind, moved, each.count, each.loop))
  return found


def is_copy(program: Program, each: ExecutedOp) -> bool:
  """Returns whether an op only moves data within a device's memory."""
  return _kind(program, each) in ("copy", "transpose", "fusion")


def _kind(program: Program, each: ExecutedOp) -> str:
  """Returns the kind of `Copy` that an op is, "" for another op."""
  op = each.op
  if op.opcode in ("copy", "transpose", "copy-start"):
    if _HOST in op.type + each.operand(0).type:
      return "host"
    return "" if op.opcode == "copy-start" else op.opcode
  if op.opcode != "fusion":
    return ""
  inner = {o.opcode for o in program[op.called("calls")].ops.values()}
  return "fusion" if inner & _MOVES and inner <= _MOVES | _SILENT else ""

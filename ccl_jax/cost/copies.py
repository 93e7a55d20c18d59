"""Data that a program moves without changing it.

Relayouts of activations are the price of transposes between matrix products and
kernels; a compiler shows them as ops of their own, or as fusions of nothing but
copies and transposes. Prefetches into on-chip memory (`copy-start`) are not
counted, except to and from the host.
"""

import dataclasses

from ccl_jax.cost.hlo import Program, size
from ccl_jax.cost.hlo_loops import Loop, Run, runs

_MOVES = {"copy", "transpose"}
_SILENT = {"parameter", "bitcast", "reshape", "tuple", "get-tuple-element"}
_HOST = "S(5)"  # the memory space of the host in a layout


@dataclasses.dataclass(frozen=True)
class Copy:
  """One op that moves.

  Attributes:
    kind: "copy", "transpose", "fusion" or "host" (offloading).
    bytes: of its result, once.
    count: executions in one run of the program.
    shape: the result's type, with its layout.
    loop: the innermost loop around it.
    source: the jax operation, "" where the compiler made it up.
  """

  kind: str
  bytes: int
  count: int
  shape: str
  loop: Loop | None
  source: str


def copies(program: Program, min_bytes: int) -> list[Copy]:
  """Copies and transposes of at least `min_bytes`, outside of other fusions."""
  found = []
  for run in runs(program):
    kind = "" if run.fusion else _kind(program, run)
    # A copy-start is (destination, source, context).
    moved = size(run.op.arrays[:1]) if kind == "host" else run.op.bytes
    if kind and moved >= min_bytes:
      found.append(
        Copy(kind, moved, run.count, run.op.type, run.loop, run.op.source)
      )
  return found


def _kind(program: Program, run: Run) -> str:
  """The kind of `Copy` that an op is, "" for another op."""
  op = run.op
  if op.opcode in ("copy", "transpose", "copy-start"):
    if _HOST in op.type + run.operand(0).type:
      return "host"
    return "" if op.opcode == "copy-start" else op.opcode
  if op.opcode != "fusion":
    return ""
  inner = {o.opcode for o in program[op.called("calls")].ops.values()}
  return "fusion" if inner & _MOVES and inner <= _MOVES | _SILENT else ""

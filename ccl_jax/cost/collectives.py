"""The collectives of a program: bytes, executions, and axes of the mesh.

Per chip, with g members in a group and F bytes in the entire buffer, a ring
sends

    all-gather       (g-1)/g F    F the result
    reduce-scatter   (g-1)/g F    F the result times g
    all-to-all       (g-1)/g F    F the result
    all-reduce      2(g-1)/g F    F the result
    collective-permute       F    F the result

TPU compilers write two of them as an all-reduce. A reduce-scatter becomes an
all-reduce in a fusion (`all-reduce-scatter`) that cuts out one share; it is
counted as a reduce-scatter. A gather becomes an all-reduce of zeros into which
each member writes its share, "all-reduce gather"; it is counted as an
all-reduce, since that many bytes are sent. An asynchronous collective may
appear in several fusions; only the one with an `AsyncCollectiveStart` is
counted.

Between slices, a program sends to its host, which reduces: this is "dcn
all-reduce", with the number of slices as its group and ("dcn",) as its axes.
Groups inside a slice are numbered from the slice's first device.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ccl_jax.cost.groups import axes_of, parse_groups
from ccl_jax.cost.hlo import Array, Op, Program, size
from ccl_jax.cost.hlo_loops import ExecutedOp, Loop, executed_ops

KINDS = (
  "all-gather",
  "reduce-scatter",
  "all-reduce",
  "all-reduce gather",
  "all-to-all",
  "collective-permute",
)
_PRICE = {"all-reduce": 2, "all-reduce gather": 2}
_MEGASCALE = "_xla_megascale_transfer_type="


@dataclasses.dataclass(frozen=True)
class Collective:
  """One op that communicates.

  Attributes:
    kind: one of `KINDS`, or "dcn ...".
    count: executions in one run of the program.
    result: bytes of its result, once.
    wire: bytes that each chip sends (or receives), once.
    axes: mesh axes that a group spans; () without a mesh.
    loop: the innermost loop around it.
    is_async: whether other work can run between its start and its end.
    op: the name of the op that communicates or starts to, or of the fusion
      around it.
  """

  kind: str
  count: int
  result: int
  wire: float
  axes: tuple[str, ...]
  loop: Loop | None
  is_async: bool
  op: str


def collectives(
  program: Program, mesh: Mapping[str, int] | None = None
) -> list[Collective]:
  """Returns every collective; mesh is {axis: size} in device order.

  Raises:
    ValueError: groups of devices that the mesh does not have.
  """
  found = []
  for each in executed_ops(program):
    name = each.op.opcode.removesuffix("-start")
    if name == "send" and _MEGASCALE in each.op.attributes:
      found.append(_between_slices(each))
    elif name in KINDS and not _is_continued(each):
      groups = _groups(each.op, mesh)
      axes = axes_of(groups, mesh) if mesh else ()
      for kind, result in _kinds(program, each, name, groups.shape[1]):
        found.append(_collective(kind, result, each, groups.shape[1], axes))
  return found


def totals(
  found: list[Collective],
  key: Callable[[Collective], Any] = lambda c: (c.kind, c.axes),
) -> dict[Any, dict[str, int | float]]:
  """Returns sums by `key`, by default kind and axes.

  They are the ops in the text ("static"), their executions ("executed"), and
  the bytes of all executions ("result", "wire").
  """
  sums = collections.defaultdict(collections.Counter)
  for c in found:
    sums[key(c)].update(
      static=1,
      executed=c.count,
      result=c.count * c.result,
      wire=c.count * c.wire,
    )
  return {name: dict(total) for name, total in sums.items()}


def _groups(op: Op, mesh: Mapping[str, int] | None) -> np.ndarray:
  groups = parse_groups(op.attributes)
  if groups.size:
    return groups
  return np.arange(math.prod((mesh or {}).values()))[None]  # {} means all


def _collective(kind, result, each: ExecutedOp, group, axes) -> Collective:
  full = result * group if kind == "reduce-scatter" else result
  wire = _PRICE.get(kind, 1) * full * (group - 1) / group
  if kind == "collective-permute":
    wire = float(result)
  op, outer = each.op, each.op if each.fusion is None else each.fusion
  is_async = outer.opcode.endswith("-start") or "chain_id=" in op.attributes
  return Collective(
    kind, each.count, result, wire, axes, each.loop, is_async, outer.name
  )


def _is_continued(each: ExecutedOp) -> bool:
  """Returns whether another fusion has started this collective."""
  return "chain_id=" in each.op.attributes and not any(
    '"AsyncCollectiveStart"' in op.attributes
    for op in each.computation.ops.values()
  )


def _between_slices(each: ExecutedOp) -> Collective:
  """Reads a `send` to the host, `_xla_megascale_target="{1,2}x{0:31}"`."""
  text = each.op.attributes
  kind = re.search(_MEGASCALE + r'"(\w+)"', text)[1].lower().replace("_", "-")
  slices = re.search(r'_xla_megascale_target="\{([\d,:]*)\}', text)
  bounds = [part.split(":") for part in slices[1].split(",")] if slices else []
  group = sum(int(b[-1]) - int(b[0]) + 1 for b in bounds) or 2
  sent = size(each.op.arrays[:1])
  wire = _PRICE.get(kind, 1) * sent * (group - 1) / group
  return Collective(
    f"dcn {kind}", each.count, sent, wire, ("dcn",), each.loop, is_async=True,
    op=each.op.name,
  )  # fmt: skip


def _kinds(program, each: ExecutedOp, name, group) -> Iterator[tuple[str, int]]:
  """Yields (kind, result bytes): an op may hold all-reduces of two kinds."""
  if name != "all-reduce":
    yield name, size(_result(each, name))
    return
  parts = _result(each, name)
  root = each.computation.ops[each.computation.root]
  if each.fusion is not None and root.bytes * group == size(parts):
    yield "reduce-scatter", root.bytes
    return
  gathers = [
    _is_share(program, each.computation, n, group) for n in each.op.operands
  ]
  for kind, wanted in (("all-reduce gather", True), ("all-reduce", False)):
    chosen = [a for a, g in zip(parts, gathers, strict=True) if g == wanted]
    if chosen:
      yield kind, size(chosen)


def _result(each: ExecutedOp, name: str) -> list[Array]:
  """Returns the result's arrays; a -start holds operands and context too."""
  if each.op.opcode == name:
    return each.op.arrays
  parts = [a for a in each.op.arrays if a != ("u32", ())]
  return parts if name == "all-reduce" else parts[len(parts) // 2 :]


def _is_share(program, computation, name, group) -> bool:
  """Returns whether it writes one member's share into the group's buffer."""
  op = computation.leaf(name)
  while op is not None and op.opcode == "fusion":
    computation = program[op.called("calls")]
    op = computation.leaf(computation.root)
  if op is None or op.opcode != "dynamic-update-slice":
    return False
  return computation.ops[op.operands[1]].bytes * group == op.bytes

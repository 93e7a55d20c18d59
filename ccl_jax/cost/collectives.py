"""What a program sends, how often, and along which axes of the mesh.

Per chip, with g members in a group and F bytes of the whole buffer, a ring
sends

    all-gather       (g-1)/g F    F the result
    reduce-scatter   (g-1)/g F    F the result times g
    all-to-all       (g-1)/g F    F the result
    all-reduce      2(g-1)/g F    F the result
    collective-permute       F    F the result

TPU compilers write two of them as an all-reduce. A reduce-scatter is one that a
fusion (`all-reduce-scatter`) cuts down to a share: counted as what it is. And a
gather is one of zeros that the own share is written into, "all-reduce gather":
counted at the price of an all-reduce, for that is what is sent. An asynchronous
one may stand in several fusions: the one with an `AsyncCollectiveStart` counts.

Between slices the program sends to its host, which reduces: "dcn all-reduce",
with the number of slices as its group and ("dcn",) for its axes. Groups inside
of a slice are numbered from the slice's first device.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ccl_jax.cost.groups import axes_of, parse_groups
from ccl_jax.cost.hlo import Array, Op, Program, size
from ccl_jax.cost.hlo_loops import Loop, Run, runs

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
    group: members of a group.
    axes: mesh axes that a group spans; () without a mesh.
    loop: the innermost loop around it.
    source: the jax operation.
    is_async: may other work run between its start and its end?
  """

  kind: str
  count: int
  result: int
  wire: float
  group: int
  axes: tuple[str, ...]
  loop: Loop | None
  source: str
  is_async: bool


@dataclasses.dataclass(frozen=True)
class Total:
  """Sums over collectives: ops in the text, executions, bytes executed."""

  static: int
  count: int
  result: float
  wire: float


def collectives(
  program: Program, mesh: Mapping[str, int] | None = None
) -> list[Collective]:
  """Every collective; mesh is {axis: size} in the order of its devices.

  Raises:
    ValueError: groups of devices that the mesh does not have.
  """
  found = []
  for run in runs(program):
    name = run.op.opcode.removesuffix("-start")
    if name == "send" and _MEGASCALE in run.op.attributes:
      found.append(_between_slices(run))
    elif name in KINDS and not _is_continued(run):
      groups = _groups(run.op, mesh)
      axes = axes_of(groups, mesh) if mesh else ()
      for kind, result in _kinds(program, run, name, groups.shape[1]):
        found.append(_collective(kind, result, run, groups.shape[1], axes))
  return found


def totals(
  found: list[Collective],
  key: Callable[[Collective], Any] = lambda c: (c.kind, c.axes),
) -> dict[Any, Total]:
  """Sums by `key`, by default kind and axes."""
  sums: dict[Any, Total] = {}
  for c in found:
    old = sums.get(key(c), Total(0, 0, 0.0, 0.0))
    sums[key(c)] = Total(
      old.static + 1,
      old.count + c.count,
      old.result + c.count * c.result,
      old.wire + c.count * c.wire,
    )
  return sums


def _groups(op: Op, mesh: Mapping[str, int] | None) -> np.ndarray:
  groups = parse_groups(op.attributes)
  if groups.size:
    return groups
  return np.arange(math.prod((mesh or {}).values()))[None]  # {} means all


def _collective(kind, result, run: Run, group, axes) -> Collective:
  full = result * group if kind == "reduce-scatter" else result
  wire = _PRICE.get(kind, 1) * full * (group - 1) / group
  if kind == "collective-permute":
    wire = float(result)
  outer = run.op if run.fusion is None else run.fusion
  is_async = outer.opcode.endswith("-start") or "chain_id=" in run.op.attributes
  return Collective(
    kind, run.count, result, wire, group, axes, run.loop, run.op.source,
    is_async,
  )  # fmt: skip


def _is_continued(run: Run) -> bool:
  """Is it a later part of a collective that another fusion has started?"""
  return "chain_id=" in run.op.attributes and not any(
    '"AsyncCollectiveStart"' in op.attributes
    for op in run.computation.ops.values()
  )


def _between_slices(run: Run) -> Collective:
  """A `send` to the host, for `_xla_megascale_target="{1,2}x{0:31}"`."""
  text = run.op.attributes
  kind = re.search(_MEGASCALE + r'"(\w+)"', text)[1].lower().replace("_", "-")
  slices = re.search(r'_xla_megascale_target="\{([\d,:]*)\}', text)
  bounds = [part.split(":") for part in slices[1].split(",")] if slices else []
  group = sum(int(b[-1]) - int(b[0]) + 1 for b in bounds) or 2
  sent = size(run.op.arrays[:1])
  wire = _PRICE.get(kind, 1) * sent * (group - 1) / group
  return Collective(
    f"dcn {kind}", run.count, sent, wire, group, ("dcn",), run.loop,
    run.op.source, is_async=True,
  )  # fmt: skip


def _kinds(program, run: Run, name, group) -> Iterator[tuple[str, int]]:
  """(kind, result bytes): one op may hold all-reduces of two kinds."""
  if name != "all-reduce":
    yield name, size(_result(run, name))
    return
  parts = _result(run, name)
  root = run.computation.ops[run.computation.root]
  if run.fusion is not None and root.bytes * group == size(parts):
    yield "reduce-scatter", root.bytes
    return
  gathers = [
    _is_share(program, run.computation, n, group) for n in run.op.operands
  ]
  for kind, wanted in (("all-reduce gather", True), ("all-reduce", False)):
    chosen = [a for a, g in zip(parts, gathers, strict=True) if g == wanted]
    if chosen:
      yield kind, size(chosen)


def _result(run: Run, name: str) -> list[Array]:
  """The arrays of the result; a -start holds its operands and context too."""
  if run.op.opcode == name:
    return run.op.arrays
  parts = [a for a in run.op.arrays if a != ("u32", ())]
  return parts if name == "all-reduce" else parts[len(parts) // 2 :]


def _is_share(program, computation, name, group) -> bool:
  """Is it one member's share written into a buffer for the whole group?"""
  op = computation.leaf(name)
  while op is not None and op.opcode == "fusion":
    computation = program[op.called("calls")]
    op = computation.leaf(computation.root)
  if op is None or op.opcode != "dynamic-update-slice":
    return False
  return computation.ops[op.operands[1]].bytes * group == op.bytes

"""How often each op of a program runs.

An op runs as often as its computation is called, and a `while` calls its body
as often as it turns. That number is in the text where the compiler knows it
(`known_trip_count`); else it follows from the loop's counter,

    ceil((limit - start) / step),   condition `counter < limit`

with `limit` a constant of the condition, `start` of the loop's initial tuple
(0 unless it says so) and `step` of the body's `add` (1 unless it says so). It
may count down as well. A loop without such a condition turns once here, and its
trips are None.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

from ccl_jax.cost.hlo import Computation, Op, Program

_WRAPPERS = ("fusion", "async-start")


@dataclasses.dataclass(frozen=True)
class Loop:
  """A `while` that is being executed.

  Attributes:
    body: name of its computation.
    trips: turns each time it runs; None if unknown, counted as 1.
    count: turns in the whole program.
    source: the jax operation, which tells forward from backward.
  """

  body: str
  trips: int | None
  count: int
  source: str


@dataclasses.dataclass(frozen=True)
class Run:
  """An op, and how often it runs.

  Attributes:
    op: the instruction.
    computation: where it stands.
    count: executions in one run of the program.
    loop: the innermost loop around it, None outside of all.
    fusion: the fusion (or async-start) around it, None for an op of its own.
  """

  op: Op
  computation: Computation
  count: int
  loop: Loop | None
  fusion: Op | None

  def operand(self, i: int) -> Op:
    """The op behind operand i."""
    return self.computation.ops[self.op.operands[i]]


def runs(program: Program) -> Iterator[Run]:
  """Every op that runs, through loops, calls and fusions.

  All branches of a conditional are taken to run. The small functions of
  reductions (`to_apply`) and the conditions of loops are left out.
  """
  yield from _runs(program, program[program.entry], 1, None, None)


def loops(program: Program) -> list[Loop]:
  """The loops of a program, outer before inner."""
  found = {}
  for run in runs(program):
    if run.loop is not None:
      found.setdefault((run.loop.body, run.loop.count), run.loop)
  return list(found.values())


def trip_count(
  program: Program, computation: Computation, op: Op
) -> int | None:
  """Turns of a `while` op of `computation`, None if it cannot be told."""
  known = re.search(r'"known_trip_count":\{"n":"(\d+)"', op.attributes)
  if known:
    return int(known[1])
  found = _limit(program, program[op.called("condition")])
  if found is None:
    return None
  direction, index, limit = found
  start = _start(computation, op, index)
  step = abs(_step(program, program[op.called("body")], index))
  span = limit - start if direction in ("LT", "LE") else start - limit
  return max(0, math.ceil((span + (direction in ("LE", "GE"))) / step))


def _runs(program, computation, count, loop, fusion) -> Iterator[Run]:
  for op in computation.ops.values():
    yield Run(op, computation, count, loop, fusion)
    if op.opcode == "while":
      trips = trip_count(program, computation, op)
      inner = count * (1 if trips is None else trips)
      body = op.called("body")
      turning = Loop(body, trips, inner, op.source)
      yield from _runs(program, program[body], inner, turning, fusion)
    else:
      inside = fusion or (op if op.opcode in _WRAPPERS else None)
      for name in _callees(op):
        yield from _runs(program, program[name], count, loop, inside)


def _callees(op: Op) -> list[str]:
  """Computations that an op runs once each time it runs."""
  if op.opcode in _WRAPPERS:
    return [op.called("calls")]
  if op.opcode == "call":
    return [op.called("to_apply")]
  if op.opcode != "conditional":
    return []
  branches = op.attribute("branch_computations")
  if branches:
    return [b.strip(" %") for b in branches.strip("{}").split(",")]
  return [op.called("true_computation"), op.called("false_computation")]


def _limit(program, condition) -> tuple[str, int, int] | None:
  """(direction, index of the counter in the loop's tuple, constant limit)."""
  call = compare = condition.leaf(condition.root)
  where = condition
  if call.opcode in ("fusion", "call"):
    where = program[_callees(call)[0]]
    compare = where.leaf(where.root)
  if compare.opcode != "compare":
    return None
  direction = compare.attribute("direction")
  sides = [_outside(where, n, condition, call) for n in compare.operands]
  if sides[0] is not None and sides[0].opcode == "constant":
    sides = sides[::-1]  # limit > counter
    direction = {"LT": "GT", "GT": "LT", "LE": "GE", "GE": "LE"}.get(direction)
  counter, limit = sides
  if None in sides or direction not in ("LT", "LE", "GT", "GE"):
    return None
  if (counter.opcode, limit.opcode) != ("get-tuple-element", "constant"):
    return None
  return direction, int(counter.attribute("index")), int(limit.operands[0])


def _outside(inner, name, outer, call) -> Op | None:
  """The op behind `name`, or behind what the caller passed for it."""
  op = inner.leaf(name)
  if op is not None and op.opcode == "parameter" and inner is not outer:
    return outer.leaf(call.operands[int(op.operands[0])])
  return op


def _start(computation, op, index) -> int:
  """What the loop's counter begins with."""
  initial = computation.leaf(op.operands[0])
  if initial is None or initial.opcode != "tuple":
    return 0
  return computation.constant(initial.operands[index]) or 0


def _step(program, body, index) -> int:
  """What one turn adds to the counter."""
  result = body.leaf(body.root)
  if result.opcode != "tuple":
    return 1
  add = body.leaf(result.operands[index])
  if add is None or add.opcode not in ("add", "fusion"):
    return 1
  names = [(body, name) for name in add.operands]
  if add.opcode == "fusion":
    inner = program[add.called("calls")]
    names += [(inner, name) for name in inner.leaf(inner.root).operands]
  steps = [where.constant(name) for where, name in names]
  return next((s for s in steps if s), 1)

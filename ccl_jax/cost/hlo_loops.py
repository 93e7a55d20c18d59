"""How often each op of a program is executed.

An op is executed as often as its computation is called, and a `while` calls its
body once per trip. The text has the trip count if the compiler knows it
(`known_trip_count`); else it follows from the loop's counter,

    ceil((limit - start) / step),   condition `counter < limit`

with `limit` a constant of the condition, `start` a constant of the loop's
initial tuple (0 if it has none) and `step` one of the body's `add` (1 if it has
none). Loops that count down are handled likewise. A loop without such a
condition is counted as one trip, and its trips are None.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

from ccl_jax.cost.hlo import Computation, Op, Program

# With "custom-call-start" a sparse core begins a collective.
_WRAPPERS = ("fusion", "async-start", "custom-call-start")


@dataclasses.dataclass(frozen=True)
class Loop:
  """A `while` loop.

  Attributes:
    body: name of its computation.
    trips: per execution of the loop; None if unknown, counted as 1.
    count: trips in one run of the program.
  """

  body: str
  trips: int | None
  count: int


@dataclasses.dataclass(frozen=True)
class ExecutedOp:
  """An op, and how often it is executed.

  Attributes:
    op: the instruction.
    computation: the one that it is in.
    count: executions in one run of the program.
    loop: the innermost loop around it, None outside loops.
    fusion: the fusion (or async-start) around it, None outside fusions.
  """

  op: Op
  computation: Computation
  count: int
  loop: Loop | None
  fusion: Op | None

  def operand(self, i: int) -> Op:
    """Returns the source of operand i."""
    return self.computation.ops[self.op.operands[i]]


def executed_ops(program: Program) -> Iterator[ExecutedOp]:
  """Yields every op that is executed, in loops, calls and fusions too.

  All branches of a conditional are taken as executed. The small functions of
  reductions (`to_apply`) and the conditions of loops are left out.
  """
  yield from _executed(program, program[program.entry], 1, None, None)


def trip_count(
  program: Program, computation: Computation, op: Op
) -> int | None:
  """Returns the trips of a `while` op of `computation`; None if unknown."""
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


def _executed(
  program, computation, count, loop, fusion
) -> Iterator[ExecutedOp]:
  for op in computation.ops.values():
    yield ExecutedOp(op, computation, count, loop, fusion)
    if op.opcode == "while":
      trips = trip_count(program, computation, op)
      inner = count * (1 if trips is None else trips)
      body = op.called("body")
      own = Loop(body, trips, inner)
      yield from _executed(program, program[body], inner, own, fusion)
    else:
      inside = fusion or (op if op.opcode in _WRAPPERS else None)
      for name in callees(op):
        yield from _executed(program, program[name], count, loop, inside)


def callees(op: Op) -> list[str]:
  """Returns the computations that an op calls once per execution."""
  if op.opcode == "custom-call-start":
    return _named(op.attribute("called_computations"))
  if op.opcode in _WRAPPERS:
    return [op.called("calls")]
  if op.opcode == "call":
    return [op.called("to_apply")]
  if op.opcode != "conditional":
    return []
  if branches := _named(op.attribute("branch_computations")):
    return branches
  return [op.called("true_computation"), op.called("false_computation")]


def _named(braces: str | None) -> list[str]:
  """Returns the computations of "{%a, %b}"."""
  return [b.strip(" %") for b in (braces or "").strip("{}").split(",") if b]


def _limit(program, condition) -> tuple[str, int, int] | None:
  """Returns (direction, index of the counter in the tuple, limit)."""
  call = compare = condition.leaf(condition.root)
  where = condition
  if call.opcode in ("fusion", "call"):
    where = program[callees(call)[0]]
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
  """Returns the source of `name`, or of what the caller passed for it."""
  op = inner.leaf(name)
  if op is not None and op.opcode == "parameter" and inner is not outer:
    return outer.leaf(call.operands[int(op.operands[0])])
  return op


def _start(computation, op, index) -> int:
  """Returns the first value of the loop's counter."""
  initial = computation.leaf(op.operands[0])
  if initial is None or initial.opcode != "tuple":
    return 0
  return computation.constant(initial.operands[index]) or 0


def _step(program, body, index) -> int:
  """Returns the increment of the counter."""
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

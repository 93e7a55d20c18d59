"""How long a core waits for asynchronous collectives.

The HLO text lists the ops of a computation in the order in which a core runs
them. An op that begins a collective, `x-start`, takes no time; the links send
one collective after another, and the core waits at `x-done` for its end:

    free = end = max(now, free) + sent(start)         at x-start
    now = max(now, end)                               at x-done            (1)
    now = now + busy(op)                              at any other op

`free` is the time at which the links have sent all collectives begun so far,
and a loop is busy for as long as its trips take. The collectives of a loop are
taken to begin and end in one trip, as they do in the program.
"""

from collections.abc import Mapping

from ccl_jax.cost.hlo import Computation, Op, Program
from ccl_jax.cost.hlo_loops import callees, trip_count


def exposed_seconds(
  program: Program, busy: Mapping[str, float], sent: Mapping[str, float]
) -> float:
  """Returns what eq. 1 adds to a program whose collectives took no time.

  Args:
    busy: seconds that a core spends in one run of an op, by name.
    sent: seconds that the links spend on an asynchronous collective, by the
      name of the op that begins it.
  """
  entry = program[program.entry]
  with_waits = _seconds(program, entry, busy, sent)
  return with_waits - _seconds(program, entry, busy, {})


def _seconds(
  program: Program,
  computation: Computation,
  busy: Mapping[str, float],
  sent: Mapping[str, float],
) -> float:
  """Returns how long a computation takes, by eq. 1."""
  now = free = 0.0
  ends: dict[str, float] = {}
  for op in computation.ops.values():
    if op.opcode.endswith("-start"):
      if op.name in sent:
        ends[op.name] = free = max(now, free) + sent[op.name]
    elif op.opcode.endswith("-done"):
      now = max(now, ends.get(_start(computation, op), 0.0))
    elif op.name in busy:
      now += busy[op.name]
    elif op.opcode == "while":
      trips = trip_count(program, computation, op)
      body = program[op.called("body")]
      trip = _seconds(program, body, busy, sent)
      now += trip * (1 if trips is None else trips)
    elif op.opcode in ("call", "conditional"):
      for name in callees(op):
        now += _seconds(program, program[name], busy, sent)
  return now


def _start(computation: Computation, op: Op) -> str:
  """Returns the name of the `-start` that a `-done` belongs to."""
  while op is not None and not op.opcode.endswith("-start"):
    op = computation.ops.get(op.operands[0])  # by way of an `-update`
  return "" if op is None else op.name

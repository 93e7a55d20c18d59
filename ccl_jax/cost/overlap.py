"""How long a core waits for asynchronous collectives.

The text has a computation's ops in the order in which a core runs them. One
that begins a collective, `x-start`, takes no time; the links send one after
another, and the core waits at `x-done` for what is not over by then:

    end = free = max(now, free) + sent(start)
    wait = max(0, end - now)                                               (1)

`now` is the sum of what the core has run: ops, loops, waits. `free` is when the
links have sent all that was begun. A loop's collectives begin and end in one
trip, as they do in the program.
"""

import collections
from collections.abc import Mapping

from ccl_jax.cost.hlo import Computation, Op, Program
from ccl_jax.cost.hlo_loops import callees, executed_ops, trip_count


def exposed_seconds(
  program: Program, busy: Mapping[str, float], sent: Mapping[str, float]
) -> float:
  """Adds up eq. 1 over all executions of all computations.

  Args:
    busy: seconds that a core spends in one run of an op, by name.
    sent: seconds that the links spend on an asynchronous collective, by the
      name of the op that begins it.
  """
  return sum(
    count * _waits(program, program[name], busy, sent)
    for name, count in _executions(program).items()
  )


def _executions(program: Program) -> dict[str, int]:
  """Returns how often each computation runs."""
  counts = collections.Counter()
  for each in executed_ops(program):
    if each.op is next(iter(each.computation.ops.values())):
      counts[each.computation.name] += each.count
  return counts


def _waits(
  program: Program,
  computation: Computation,
  busy: Mapping[str, float],
  sent: Mapping[str, float],
) -> float:
  now = free = waited = 0.0
  ends: dict[str, float] = {}
  for op in computation.ops.values():
    if op.opcode.endswith("-start") and op.name in sent:
      ends[op.name] = free = max(now, free) + sent[op.name]
    elif op.opcode.endswith("-done"):
      wait = max(0.0, ends.get(_start(computation, op), 0.0) - now)
      waited, now = waited + wait, now + wait
    else:
      now += _length(program, computation, op, busy)
  return waited


def _start(computation: Computation, op: Op) -> str:
  """Returns the name of the `-start` that a `-done` belongs to."""
  while op is not None and not op.opcode.endswith("-start"):
    op = computation.ops.get(op.operands[0])  # by way of an `-update`
  return "" if op is None else op.name


def _length(
  program: Program, computation: Computation, op: Op, busy: Mapping[str, float]
) -> float:
  """Returns the seconds of an op; of a loop, those of all of its trips."""
  if op.name in busy or op.opcode == "fusion":
    return busy.get(op.name, 0.0)
  if op.opcode == "while":
    names, times = [op.called("body")], trip_count(program, computation, op)
  else:
    names, times = callees(op), 1
  inside = (
    _length(program, program[name], inner, busy)
    for name in names
    for inner in program[name].ops.values()
    if not inner.opcode.endswith("-start")
  )
  return (1 if times is None else times) * sum(inside, 0.0)

"""The steps of a solver whose field changes along the way.

A *phase* is (field, number of steps), a `lax.scan` over its own rows, or
(phases, number of times) of phases that repeat. The state that a field keeps
from step to step is passed on beside that of the solver.
"""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ccl_jax.array_types import Float, State

# (state, sigma of each stream, transform_state) -> velocity of each stream,
# next transform_state.
Field = Callable[[State, State, Any], tuple[State, Any]]
Sigmas = Mapping[str, np.ndarray]
Phases = Sequence[tuple[Any, int]]  # of a Field, or of Phases again


def split(
  sigmas: Float[np.ndarray, " sigmas"],
  window: tuple[float, float],
  every: int = 1,
) -> list[tuple[Any, int]]:
  """Splits the steps into runs inside and outside of the window.

  Args:
    every: only every n-th step in the window is inside.

  Returns:
    (is inside, number of steps) of each run, or (runs, number of times) of runs
    that repeat; empty without steps.
  """
  low, high = window
  is_inside = [bool(low <= sigma <= high) for sigma in sigmas[:-1]]
  runs = []
  for inside, run in itertools.groupby(is_inside):
    num = len(list(run))
    if not inside or every == 1:
      runs.append((inside, num))
      continue
    times, rest = divmod(num, every)
    period = [(True, 1), (False, every - 1)]
    runs += [(period, times), (True, min(rest, 1)), (False, max(rest - 1, 0))]
  return [(what, count) for what, count in runs if count]


def count(phases: Phases, inside: bool) -> int:
  """Returns how many steps of `split` are inside, or outside."""
  return sum(
    num * (count(what, inside) if isinstance(what, list) else what == inside)
    for what, num in phases
  )


def with_fields(
  runs: Sequence[tuple[Any, int]], inside: Field, outside: Field
) -> Phases:
  """Returns the phases of the runs of `split`."""
  return [
    (
      with_fields(what, inside, outside)
      if isinstance(what, list)
      else (inside if what else outside),
      num,
    )
    for what, num in runs
  ]


def combine(weights, states) -> State:
  """Returns sum_k weights[k] states[k], by the weights of each stream."""
  return {
    s: sum(w * x[s] for w, x in zip(weights[s], states, strict=True))
    for s in states[0]
  }


def scan(step, phases: Phases, carry, rows):
  """Scans step(field, carry, row), phase by phase.

  Returns:
    The last carry, and the second results of all steps, stacked.
  """
  start, outs = 0, []
  for what, num in phases:
    steps = num * _num_steps(what)
    part = jax.tree.map(lambda row: row[start : start + steps], rows)  # noqa: B023
    if callable(what):
      carry, out = jax.lax.scan(functools.partial(step, what), carry, part)
    else:
      part = jax.tree.map(lambda x: x.reshape(num, -1, *x.shape[1:]), part)  # noqa: B023
      repeat = functools.partial(scan, step, what)
      carry, out = jax.lax.scan(repeat, carry, part)
      out = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), out)
    start, outs = start + steps, [*outs, out]
  return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts), *outs)


def _num_steps(what: Any) -> int:
  """Returns the steps of a field, 1, or of phases."""
  return 1 if callable(what) else sum(n * _num_steps(each) for each, n in what)

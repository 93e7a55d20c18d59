"""The steps of a solver whose field changes along the way.

There are two fields: one for steps inside of a window of times, one for those
outside. A *run* is (is inside, number of steps), a `lax.scan` over its own
rows, or (runs, number of times) of runs that repeat. The state that a field
keeps from step to step is passed on beside that of the solver.
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
Fields = Mapping[bool, Field]  # is inside -> its field
Sigmas = Mapping[str, np.ndarray]
Runs = Sequence[tuple[Any, int]]


def split(
  sigmas: Float[np.ndarray, " sigmas"],
  window: tuple[float, float],
  every: int = 1,
) -> Runs:
  """Splits the steps into runs; inside is every n-th step in the window."""
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


def count(runs: Runs, inside: bool | None = None) -> int:
  """Returns how many steps are inside, or outside; None counts all."""
  total = 0
  for what, num in runs:
    if isinstance(what, list):
      total += num * count(what, inside)
    elif inside in (what, None):
      total += num
  return total


def combine(weights, states) -> State:
  """Returns sum_k weights[k] states[k], by the weights of each stream."""
  return {
    s: sum(w * x[s] for w, x in zip(weights[s], states, strict=True))
    for s in states[0]
  }


def scan(step, fields: Fields, runs: Runs, carry, rows):
  """Scans step(field, carry, row) over all runs; returns as `lax.scan`."""
  start, outs = 0, []
  for what, num in runs:
    steps = count([(what, num)])
    part = jax.tree.map(lambda row: row[start : start + steps], rows)  # noqa: B023
    if isinstance(what, list):
      part = jax.tree.map(lambda x: x.reshape(num, -1, *x.shape[1:]), part)  # noqa: B023
      repeat = functools.partial(scan, step, fields, what)
      carry, out = jax.lax.scan(repeat, carry, part)
      out = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), out)
    else:
      one = functools.partial(step, fields[what])
      carry, out = jax.lax.scan(one, carry, part)
    start, outs = start + steps, [*outs, out]
  return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts), *outs)

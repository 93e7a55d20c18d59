"""From noise to latents: solvers of dx/dt = v(x, t) from t = 1 to t = 0.

Times are called sigma here: sigma_0 = 1 > ... > sigma_N = 0, one field
evaluation per step. `euler`:

    x_{i+1} = x_i + (sigma_{i+1} - sigma_i) v(x_i, sigma_i)

`unipc` (UniPC-2, B2, data prediction; Zhao et al. 2023, arXiv 2302.04867): with

    m_i = x_i - sigma_i v(x_i, sigma_i)             the predicted data
    l_i = log((1 - sigma_i) / sigma_i),  h = l_{i+1} - l_i
    B   = exp(-h) - 1,  D = (m_{i-1} - m_i) / r,  r = (l_{i-1} - l_i) / h
    base(m) = sigma_{i+1} / sigma_i x_i - (1 - sigma_{i+1}) B m

each step first predicts, and once m_{i+1} is known corrects itself:

    x_{i+1}  = base(m_i + D / 2)
    x_{i+1} <- base(m_i + p D + q (m_{i+1} - m_i))
    b1 = (-B / h - 1) / B,  b2 = 2 ((B / h + 1) / h - 1 / 2) / B
    p  = (b1 - b2) / (1 - r),  q = b1 - p

m_{i+1} is the field at the *uncorrected* x_{i+1}. The first and the last step
are of order 1 (D = 0, q = 1/2); the last lands on m and is not corrected. Both
updates are linear in (x, m), so their coefficients are a table made on the
host in float64 and the solver is one `lax.scan` over its rows.

Solvers do not depend on streams or conditions: before each evaluation, `solve`
pins the given latents and sets their time to 0. The field may change along the
way: each *phase*, (field, number of steps), is a scan over its own rows, and so
is one that repeats others, (phases, number of times). What a field has to
remember from step to step is handed on beside the state.
"""

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ccl_jax.array_types import STREAMS, Array, Bool, Float, State
from ccl_jax.diffusion import flow
from ccl_jax.diffusion.flow import Velocity

# (state, sigma of each stream, memory) -> velocity of each stream, memory.
Field = Callable[[State, State, Any], tuple[State, Any]]
Sigmas = Mapping[str, np.ndarray]
Phases = Sequence[tuple[Any, int]]  # of a Field, or of Phases again
OnStep = Callable[[Any], None]

# UniPC takes log(1 - sigma), so its first sigma is 1 minus this.
_UNIPC_MARGIN = 1e-6


def schedule(
  num_steps: int, shift: float, train_steps: int = 1000
) -> Float[np.ndarray, " {num_steps}+1"]:
  """Returns shifted sigmas from 1 to 0, the flow schedule of diffusers' UniPC.

  Linear from 1 towards 1 / train_steps, without that end, shifted, then 0.
  Unlike there, the model gets sigma itself, not floor(1000 sigma).

  Raises:
    ValueError: fewer than one step, or a shift that is not positive.
  """
  if num_steps < 1 or not shift > 0:
    raise ValueError(f"{num_steps=} must be at least 1 and {shift=} positive.")
  sigmas = np.linspace(1, 1 / train_steps, num_steps + 1)[:-1]
  return np.append(flow.shift_time(sigmas, shift), 0).astype(np.float32)


def solve(
  velocity: Velocity,
  noise: State,
  clean: dict[str, Bool[Array, " b ..."]],
  given: State,
  sigmas: Sigmas,
  solver: str,
  condition: Any,
  window: tuple[float, float] = (0.0, 1.0),
  outside: Velocity | None = None,
  on_step: OnStep | None = None,
  every: int = 1,
  memory: Any = None,
) -> tuple[State, State]:
  """Solves the flow of `velocity` from `noise` to latents, in float32.

  Args:
    velocity: called with the state, the time of each stream ((b,), or
      (b, f, 1) where `clean` is per frame) and `condition`.
    noise: standard normal state, one or both streams.
    clean: for each stream with given latents, the mask of these, (b, 1, ...) or
      (b, f, 1, ...); they stay as given and their time is 0.
    given: for the same streams, latents that broadcast to the state.
    sigmas: for each stream, a concrete numpy array that falls to 0, see
      `schedule`; all of one length.
    solver: a key of SOLVERS.
    condition: handed to `velocity` as it is.
    window: the (lowest, highest) sigma, of `first`, at which `velocity` is
      evaluated.
    outside: evaluated at the others; `velocity` if None.
    on_step: called on the host at every step, with its sigma.
    every: of the steps in the window, only each of this distance counts.
    memory: if not None, what both take at the first step as a fourth argument,
      to return (velocity, memory of the next).

  Returns:
    Latents of every stream in `noise`, and (steps, b, ...) of each the states
    at which the velocity was evaluated.

  Raises:
    ValueError: an unknown solver, or `clean` and `given` do not match.
  """
  check_solver(solver)
  if set(clean) != set(given) or not set(clean) <= set(noise):
    raise ValueError(
      f"clean={sorted(clean)} and given={sorted(given)} must name the same"
      f" streams, out of those of the state, {sorted(noise)}."
    )

  def pin(state: State) -> State:
    return {
      s: jnp.where(clean[s], given[s], x) if s in given else x
      for s, x in state.items()
    }

  def field(velocity, state: State, sigma: State, memory):
    if on_step is not None:
      jax.debug.callback(on_step, first(sigma))
    t = times(state, sigma, clean)
    if memory is None:
      return _float32(velocity(pin(state), t, condition)), None
    found, memory = velocity(pin(state), t, condition, memory)
    return _float32(found), memory

  def fields(phases):
    return [
      (fields(what), count)
      if isinstance(what, list)
      else (functools.partial(field, velocity if what else outside), count)
      for what, count in phases
    ]

  if outside is None:
    window, every = (0.0, 1.0), 1
  phases = fields(split(first(sigmas), window, every))
  latents, states = SOLVERS[solver](phases, _float32(noise), sigmas, memory)
  return pin(latents), pin(states)


def check_solver(name: str) -> None:
  """Checks that there is a solver of this name; else raises ValueError."""
  if name not in SOLVERS:
    raise ValueError(f"Unknown solver '{name}': {', '.join(SOLVERS)}.")


def first(sigma: Mapping[str, Any]) -> Any:
  """Returns the video's sigma, or that of a stream alone."""
  return next(sigma[s] for s in STREAMS if s in sigma)


def times(
  state: State, sigma: State, clean: dict[str, Bool[Array, " b ..."]]
) -> State:
  """Returns each stream's time at its sigma: 0 where latents are given."""
  t = {s: jnp.full((len(x),), sigma[s]) for s, x in state.items()}
  return t | {s: flow.mask_time(t[s], clean[s]) for s in clean}


def split(
  sigmas: Float[np.ndarray, " sigmas"],
  window: tuple[float, float],
  every: int = 1,
) -> list[tuple[Any, int]]:
  """Splits the steps into runs inside and outside of the window.

  Args:
    every: of the steps in the window, only each of this distance is inside.

  Returns:
    (is inside, number of steps) of each run, or (runs, number of times) of runs
    that repeat; nothing where there is no step.
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


def euler(
  phases: Phases, x: State, sigmas: Sigmas, memory: Any = None
) -> tuple[State, State]:
  """Runs Euler's method; exact on a constant field."""

  def step(field, carry, row):
    (x, memory), (sigma, delta) = carry, row
    weights = {s: (1.0, d) for s, d in delta.items()}
    v, memory = field(x, sigma, memory)
    return (_combine(weights, (x, v)), memory), x

  rows = (
    {s: sigma[:-1].astype(np.float32) for s, sigma in sigmas.items()},
    {s: np.diff(sigma).astype(np.float32) for s, sigma in sigmas.items()},
  )
  (x, _), states = _scan(step, phases, (x, memory), rows)
  return x, states


class UniPCState(NamedTuple):
  """The carry of step i: predicted x_i, x_{i-1}, m_{i-1} and m_{i-2}."""

  x: State
  last_x: State
  last_m: State
  older_m: State


def unipc(
  phases: Phases, x: State, sigmas: Sigmas, memory: Any = None
) -> tuple[State, State]:
  """Runs UniPC of order 2, equal to diffusers' `UniPCMultistepScheduler`."""
  sigmas = {
    s: np.minimum(sigma, 1 - _UNIPC_MARGIN).astype(np.float32)
    for s, sigma in sigmas.items()
  }
  tables = {s: unipc_table(sigma) for s, sigma in sigmas.items()}

  def step(field, carry, row):
    (predicted, last_x, last_m, older_m), memory = carry
    sigma, predict, correct = row
    to_data = {s: (1.0, -x) for s, x in sigma.items()}
    v, memory = field(predicted, sigma, memory)
    m = _combine(to_data, (predicted, v))
    # States in the order of the table's columns.
    x = _combine(correct, (predicted, last_x, m, last_m, older_m))
    following = _combine(predict, (x, m, last_m))
    return (UniPCState(following, x, m, last_m), memory), predicted

  zeros = jax.tree.map(jnp.zeros_like, x)
  rows = (
    {s: sigma[:-1] for s, sigma in sigmas.items()},
    {s: predict for s, (predict, _) in tables.items()},
    {s: correct for s, (_, correct) in tables.items()},
  )
  carry = UniPCState(x, zeros, zeros, zeros)
  (carry, _), states = _scan(step, phases, (carry, memory), rows)
  return carry.x, states


def _scan(step, phases: Phases, carry, rows):
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
      repeat = functools.partial(_scan, step, what)
      carry, out = jax.lax.scan(repeat, carry, part)
      out = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), out)
    start, outs = start + steps, [*outs, out]
  return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts), *outs)


def _num_steps(what: Any) -> int:
  """Returns the steps of a field, 1, or of phases."""
  return 1 if callable(what) else sum(n * _num_steps(each) for each, n in what)


def unipc_table(
  sigmas: Float[np.ndarray, " sigmas"],
) -> tuple[Float[np.ndarray, "steps 3"], Float[np.ndarray, "steps 5"]]:
  """Computes UniPC's coefficients of the N steps in float64, as float32.

  Args:
    sigmas: falling, the first below 1, the last 0.

  Returns:
    predict (N, 3), the weights in x_{i+1} of x_i, m_i, m_{i-1}; and correct
    (N, 5), those in x_i of the predicted x_i, the corrected x_{i-1}, m_i,
    m_{i-1}, m_{i-2}.
  """
  sigmas = sigmas.astype(np.float64)
  n = len(sigmas) - 1
  predict, correct = np.zeros((n, 3)), np.zeros((n, 5))
  correct[0, 0] = 1  # nothing to correct yet
  for i in range(n):
    now, later = sigmas[i : i + 2]
    ratio = later / now
    alpha_b = (1 - now) * ratio - (1 - later)  # (1 - sigma_{i+1}) B
    inverse_r = p = 0.0
    q = 0.5
    if 0 < i < n - 1:
      inverse_r, p, q = _second_order(*sigmas[i - 1 : i + 2])
    half, p = inverse_r / 2, p * inverse_r
    predict[i] = ratio, -alpha_b * (1 - half), -alpha_b * half
    if i + 1 < n:
      m = -alpha_b * np.array([q, 1 - p - q, p])
      correct[i + 1] = 0, ratio, *m
  return predict.astype(np.float32), correct.astype(np.float32)


def _second_order(before: float, now: float, later: float):
  """Returns 1 / r, p and q of the step now -> later, from three sigmas."""
  l_before, l_now, l_later = (
    math.log((1 - sigma) / sigma) for sigma in (before, now, later)
  )
  h = l_later - l_now
  r = (l_before - l_now) / h
  b = math.expm1(-h)
  b1 = (-b / h - 1) / b
  b2 = 2 * ((b / h + 1) / h - 0.5) / b
  p = (b1 - b2) / (1 - r)
  return 1 / r, p, b1 - p


def _combine(weights, states) -> State:
  """Returns sum_k weights[k] states[k], by the weights of each stream."""
  return {
    s: sum(w * x[s] for w, x in zip(weights[s], states, strict=True))
    for s in states[0]
  }


def _float32(state: State) -> State:
  return jax.tree.map(lambda x: x.astype(jnp.float32), state)


SOLVERS = {"euler": euler, "unipc": unipc}

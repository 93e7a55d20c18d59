"""From noise to latents: solvers of dx/dt = v(x, t) from t = 1 to t = 0.

Times are called sigma here: sigma_0 = 1 > ... > sigma_N = 0, one field
evaluation per step. `euler`:

    x_{i+1} = x_i + (sigma_{i+1} - sigma_i) v(x_i, sigma_i)

The other solver, of second order, is in `unipc`.

Solvers do not depend on streams or conditions: before each evaluation, `solve`
pins the given latents and sets their time to 0. The field may change along the
way: it does so in `phases`.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ccl_jax.array_types import STREAMS, Array, Bool, Float, State
from ccl_jax.diffusion import flow
from ccl_jax.diffusion.flow import Velocity
from ccl_jax.diffusion.phases import Fields, Runs, Sigmas, combine, scan, split
from ccl_jax.diffusion.unipc import unipc

OnStep = Callable[[Any], None]


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
  transform_state: Any = None,
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
    window, every: `velocity` is evaluated at every n-th step whose
      `leading_sigma` is from the lower to the higher of two.
    outside: evaluated at the other steps; `velocity` if None.
    on_step: called on the host at every step, with its sigma.
    transform_state: if not None, what both take at the first step as a fourth
      argument, to return (velocity, transform_state of the next).

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

  arguments = dict(condition=condition, clean=clean, given=given)
  fields = {
    is_inside: functools.partial(_field, each, on_step=on_step, **arguments)
    for is_inside, each in ((True, velocity), (False, outside or velocity))
  }
  runs = split(leading_sigma(sigmas), window, every)
  latents, states = SOLVERS[solver](
    fields, runs, _float32(noise), sigmas, transform_state
  )
  return _pin(latents, clean, given), _pin(states, clean, given)


def _field(
  velocity: Velocity,
  state: State,
  sigma: State,
  transform_state: Any,
  on_step: OnStep | None,
  condition: Any,
  clean: Mapping[str, Array],
  given: State,
) -> tuple[State, Any]:
  """Returns the velocities at a step, and the next transform_state."""
  if on_step is not None:
    jax.debug.callback(on_step, leading_sigma(sigma))
  t = times(state, sigma, clean)
  x = _pin(state, clean, given)
  if transform_state is None:
    return _float32(velocity(x, t, condition)), None
  found, transform_state = velocity(x, t, condition, transform_state)
  return _float32(found), transform_state


def _pin(state: State, clean: Mapping[str, Array], given: State) -> State:
  """Returns the state with the given latents in their places."""
  return {
    s: jnp.where(clean[s], given[s], x) if s in given else x
    for s, x in state.items()
  }


def check_solver(name: str) -> None:
  """Checks that there is a solver of this name; else raises ValueError."""
  if name not in SOLVERS:
    raise ValueError(
      f"Unknown solver '{name}', expected one of {', '.join(SOLVERS)}."
    )


def leading_sigma(sigma: Mapping[str, Any]) -> Any:
  """Returns the video's sigma, or that of a stream alone."""
  return next(sigma[s] for s in STREAMS if s in sigma)


def times(
  state: State, sigma: State, clean: dict[str, Bool[Array, " b ..."]]
) -> State:
  """Returns each stream's time at its sigma: 0 where latents are given."""
  t = {s: jnp.full((len(x),), sigma[s]) for s, x in state.items()}
  return t | {s: flow.mask_time(t[s], clean[s]) for s in clean}


def euler(
  fields: Fields, runs: Runs, x: State, sigmas: Sigmas, transform_state: Any
) -> tuple[State, State]:
  """Runs Euler's method; exact on a constant field."""

  def step(field, carry, row):
    (x, transform_state), (sigma, delta) = carry, row
    weights = {s: (1.0, d) for s, d in delta.items()}
    v, transform_state = field(x, sigma, transform_state)
    return (combine(weights, (x, v)), transform_state), x

  rows = (
    {s: sigma[:-1].astype(np.float32) for s, sigma in sigmas.items()},
    {s: np.diff(sigma).astype(np.float32) for s, sigma in sigmas.items()},
  )
  (x, _), states = scan(step, fields, runs, (x, transform_state), rows)
  return x, states


def _float32(state: State) -> State:
  return jax.tree.map(lambda x: x.astype(jnp.float32), state)


SOLVERS = {"euler": euler, "unipc": unipc}

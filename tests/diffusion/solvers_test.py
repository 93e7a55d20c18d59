import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.array_types import expand
from ccl_jax.diffusion import flow, solvers
from ccl_jax.diffusion.tasks import inference_task

SHAPES = {"video": (3, 2, 2, 4), "audio": (6, 3)}
NOISE = flow.draw_noise(flow.sample_keys(jax.random.key(0), 2), SHAPES)
DATA = jax.tree.map(lambda x: 2 * x[::-1] + 1, NOISE)


def sample(
  velocity, noise=NOISE, clean=(), given=(), steps=4, solver="euler", **options
):
  sigmas = dict.fromkeys(noise, solvers.schedule(steps, 5.0))
  latents, _ = solvers.solve(
    velocity, noise, dict(clean), dict(given), sigmas, solver, None, **options
  )
  return latents


def to_data(state, t, condition):
  """The velocity of the straight flow that ends in DATA."""
  return {
    s: (x - DATA[s]) / jnp.maximum(expand(t[s], x.ndim), 1e-3)
    for s, x in state.items()
  }


def test_schedule_is_shifted_and_falls_from_one_to_zero():
  sigmas = solvers.schedule(10, 5.0)
  assert sigmas.shape == (11,) and sigmas.dtype == np.float32
  assert sigmas[0] == 1 and sigmas[-1] == 0 and (np.diff(sigmas) < 0).all()
  linear = solvers.schedule(10, 1.0)
  np.testing.assert_allclose(sigmas, flow.shift_time(linear, 5.0), atol=1e-6)
  with pytest.raises(ValueError, match="num_steps=0"):
    solvers.schedule(0, 5.0)


@pytest.mark.parametrize("solver", solvers.SOLVERS)
def test_solvers_are_exact_on_a_constant_field(solver):
  constant = jax.tree.map(lambda x: x**2, NOISE)
  result = sample(lambda *_: constant, solver=solver, steps=7)
  for s in NOISE:
    # x0 = noise - v; UniPC starts 1e-6 below sigma = 1.
    expected = NOISE[s] - constant[s]
    np.testing.assert_allclose(result[s], expected, atol=3e-5)


@pytest.mark.parametrize("solver", solvers.SOLVERS)
def test_solvers_end_in_the_data_of_a_straight_flow(solver):
  result = sample(to_data, solver=solver)
  for s in NOISE:
    np.testing.assert_allclose(result[s], DATA[s], atol=3e-5)


@pytest.mark.parametrize("solver, order", [("euler", 1), ("unipc", 2)])
def test_error_falls_with_the_order_of_the_solver(solver, order):
  """dx/dt = x on sigmas that keep away from 0, where log sigma diverges."""
  x = {"audio": jnp.ones((1, 1, 1))}

  def error(steps):
    sigmas = np.linspace(0.9, 0.1, steps + 1, dtype=np.float32)
    fields = {True: lambda x, sigma, state: (x, state)}
    result, _ = solvers.SOLVERS[solver](
      fields, [(True, steps)], x, {"audio": sigmas}, None
    )
    return abs(result["audio"].item() - np.exp(-0.8))

  assert error(8) / error(16) > 0.8 * 2**order


@pytest.mark.parametrize("solver", solvers.SOLVERS)
def test_given_latents_stay_and_are_at_time_zero(solver):
  seen = []

  def velocity(state, t, condition):
    jax.debug.callback(lambda s, t: seen.append((s, t)), state, t)
    return jax.tree.map(jnp.sin, state)

  clean = inference_task("i2av").clean(NOISE)
  clean["audio"] = jnp.array([True, False])[:, None, None]
  given = {"video": DATA["video"][:, :1], "audio": DATA["audio"]}
  result = sample(velocity, clean=clean, given=given, solver=solver)
  jax.effects_barrier()
  assert len(seen) == 4
  for state, t in [*seen, (result, seen[0][1])]:
    np.testing.assert_array_equal(state["video"][:, :1], given["video"])
    np.testing.assert_array_equal(state["audio"][0], DATA["audio"][0])
    assert (state["video"][:, 1:] != DATA["video"][:, 1:]).all()
    assert t["video"].shape == (2, 3, 1) and t["audio"].shape == (2,)
    assert (t["video"][:, 0] == 0).all() and (t["video"][:, 1:] > 0).all()
    assert t["audio"][0] == 0 and t["audio"][1] == t["video"][0, 1, 0]


def test_only_the_window_sees_the_velocity():
  """Euler on two constants: each is paid for the sigmas it was asked at."""
  ones = jax.tree.map(jnp.ones_like, NOISE)
  outside = jax.tree.map(lambda x: 3 * x, ones)
  sigmas = solvers.schedule(4, 5.0)
  window = (float(sigmas[2]), float(sigmas[1]))
  result = sample(lambda *_: ones, window=window, outside=lambda *_: outside)
  inside = sigmas[1] - sigmas[3]
  for s, x in NOISE.items():
    expected = x - inside - 3 * (1 - inside)
    np.testing.assert_allclose(result[s], expected, atol=1e-5)


def test_every_second_step_sees_the_velocity():
  """Euler on two constants, as above, over 2 and 3 of 5 steps."""
  ones = jax.tree.map(jnp.ones_like, NOISE)
  outside = jax.tree.map(lambda x: 3 * x, ones)
  sigmas = solvers.schedule(5, 5.0)
  for high, steps in ((1.0, (0, 2, 4)), (float(sigmas[1]), (1, 3))):
    result = sample(
      lambda *_: ones, steps=5, window=(0.0, high), every=2,
      outside=lambda *_: outside,
    )  # fmt: skip
    inside = sum(sigmas[i] - sigmas[i + 1] for i in steps)
    for s, x in NOISE.items():
      expected = x - inside - 3 * (1 - inside)
      np.testing.assert_allclose(result[s], expected, atol=1e-5)


def test_a_transforms_state_is_handed_on_from_step_to_step():
  """A velocity that is the number of its calls, over all kinds of phases."""

  def counted(state, t, condition, calls):
    return jax.tree.map(lambda x: calls * jnp.ones_like(x), state), calls + 1

  sigmas = solvers.schedule(5, 5.0)
  result = sample(
    counted, steps=5, window=(0.0, float(sigmas[1])), every=2,
    outside=counted, transform_state=jnp.zeros(()),
  )  # fmt: skip
  total = np.sum(np.arange(5) * np.diff(sigmas))
  for s, x in NOISE.items():
    np.testing.assert_allclose(result[s], x + total, atol=1e-5)


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("solver", solvers.SOLVERS)
def test_phases_of_one_field_are_one_run(solver, every):
  whole = sample(to_data, solver=solver, steps=5)
  parts = sample(
    to_data, solver=solver, steps=5, window=(0.3, 0.9), every=every,
    outside=to_data,
  )  # fmt: skip
  for s in NOISE:
    np.testing.assert_allclose(parts[s], whole[s], atol=1e-6)


@pytest.mark.parametrize("solver", solvers.SOLVERS)
def test_each_stream_may_have_its_own_sigmas(solver):
  """Then each is solved, and told its times, as if it were alone."""
  own = {"video": solvers.schedule(5, 5.0), "audio": solvers.schedule(5, 2.0)}

  def solve(streams, sigmas):
    return solvers.solve(
      lambda x, t, _: {
        s: (x[s] - DATA[s]) / t[s].reshape(-1, *(1,) * (x[s].ndim - 1))
        + jnp.sin(x[s])
        for s in x
      },
      {s: NOISE[s] for s in streams}, {}, {},
      {s: sigmas[s] for s in streams}, solver, None,
    )  # fmt: skip

  both, states = solve(NOISE, own)
  shared = dict.fromkeys(NOISE, own["video"])
  assert not np.allclose(both["audio"], solve(NOISE, shared)[0]["audio"])
  for s in NOISE:
    alone, alone_states = solve([s], own)
    np.testing.assert_allclose(both[s], alone[s], atol=1e-6)
    np.testing.assert_allclose(states[s], alone_states[s], atol=1e-6)


def test_an_item_does_not_depend_on_the_batch_and_a_stream_may_be_alone():
  result = sample(to_data)
  item = {"audio": NOISE["audio"][1:]}
  alone = sample(
    lambda x, t, _: {
      "audio": (x["audio"] - DATA["audio"][1:]) / t["audio"][:, None, None]
    },
    noise=item,
  )
  np.testing.assert_allclose(result["audio"][1:], alone["audio"], atol=1e-6)


def test_state_is_float32_whatever_the_velocity():
  def velocity(state, t, condition):
    return jax.tree.map(lambda x: x.astype(jnp.bfloat16), state)

  result = sample(velocity, solver="unipc")
  assert {x.dtype for x in result.values()} == {jnp.dtype("float32")}


def test_wrong_requests_are_named():
  with pytest.raises(ValueError, match=r"'heun'.*euler, unipc"):
    sample(to_data, solver="heun")
  with pytest.raises(ValueError, match="same streams"):
    sample(to_data, given=DATA)

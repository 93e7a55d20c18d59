"""DDPM's schedule in times of flow."""

import jax.numpy as jnp
import numpy as np

from ccl_jax.ops import noise_schedule


def test_steps_of_their_own_times_and_between():
  times = noise_schedule.STEP_TIMES
  assert (np.diff(times) > 0).all()
  np.testing.assert_allclose(times[[0, -1]], [0.0099, 0.9937], atol=1e-4)
  steps = np.array([0, 1, 500, 998])
  middle = (times[steps] + times[steps + 1]) / 2
  for t, expected in (
    (times[steps], steps),
    (middle, steps + 0.5),
    ([0.0, 1.0], [0, 999]),
  ):
    found = noise_schedule.step_of(jnp.asarray(t, jnp.float32))
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_latents_of_flow_are_those_of_ddpm_up_to_scale():
  """x_k has variance 1 where data has: a_k^2 + s_k^2 = 1."""
  betas = np.linspace(1e-4, 0.02, 1000)
  a = np.cumprod(1 - betas) ** 0.5
  for k in (0, 300, 999):
    t = jnp.float32(noise_schedule.STEP_TIMES[k])
    scale = float(noise_schedule.scale_of(t))
    np.testing.assert_allclose(scale * (1 - t), a[k], rtol=1e-3)
    np.testing.assert_allclose(scale * t, (1 - a[k] ** 2) ** 0.5, rtol=1e-5)

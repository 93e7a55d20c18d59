"""Our UniPC against diffusers' flow UniPC, on a field that is not linear."""

import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.diffusion import solvers


def scheduler(num_steps, shift):
  from diffusers import UniPCMultistepScheduler

  scheduler = UniPCMultistepScheduler(
    prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
  )
  scheduler.set_timesteps(num_steps)
  return scheduler


@pytest.mark.parametrize("shift", [1.0, 5.0])
@pytest.mark.parametrize("num_steps", [1, 2, 3, 8, 50])
def test_equals_diffusers(num_steps, shift):
  import torch

  noise = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
  theirs, x = scheduler(num_steps, shift), torch.from_numpy(noise)
  for step, t in enumerate(theirs.timesteps):
    velocity = torch.sin(2 * x) + theirs.sigmas[step] * x
    x = theirs.step(velocity, t, x).prev_sample

  ours, _ = solvers.solve(
    lambda state, t, condition: {
      s: jnp.sin(2 * x) + t[s][:, None, None] * x for s, x in state.items()
    },
    {"audio": jnp.asarray(noise)},
    clean={},
    given={},
    sigmas={"audio": solvers.schedule(num_steps, shift)},
    solver="unipc",
    condition=None,
  )
  # Theirs computes its coefficients in float32, ours in float64.
  np.testing.assert_allclose(ours["audio"], x.numpy(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0])
def test_schedule_equals_diffusers(shift):
  ours = solvers.schedule(20, shift)
  np.testing.assert_allclose(
    ours, scheduler(20, shift).sigmas.numpy(), atol=1.1e-6
  )
  assert ours[0] == 1 and ours[-1] == 0

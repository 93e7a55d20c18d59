"""The noise schedule of DDPM (arXiv 2006.11239), in times of rectified flow.

Step k of 0 .. 999 has x_k = a_k x0 + s_k noise, with

    a_k^2 = product of 1 - beta_i over i <= k,   s_k^2 = 1 - a_k^2

and beta linear from 1e-4 to 0.02. Up to its scale this is the x_t of flow,
(1 - t) x0 + t noise, at the time

    t_k = s_k / (a_k + s_k),   x_k = (a_k + s_k) x_t                       (1)

t_0 is 0.0099 and t_999 0.9937.
"""

import jax.numpy as jnp
import numpy as np

from ccl_jax.array_types import Array, Float

NUM_STEPS = 1000
_BETAS = np.linspace(1e-4, 0.02, NUM_STEPS)
_A = np.cumprod(1 - _BETAS) ** 0.5
_S = (1 - _A**2) ** 0.5
STEP_TIMES = _S / (_A + _S)  # t_k, which rise with k


def step_of(t: Float[Array, "*b"]) -> Float[Array, "*b"]:
  """Returns the step of a time, between whole ones by linear interpolation.

  Times outside of t_0 to t_999 have the first and the last step.
  """
  times = jnp.asarray(STEP_TIMES, jnp.float32)
  return jnp.interp(t, times, jnp.arange(NUM_STEPS, dtype=jnp.float32))


def scale_of(t: Float[Array, "*b"]) -> Float[Array, "*b"]:
  """Returns a_k + s_k of eq. 1 at a time: 1 / sqrt((1 - t)^2 + t^2)."""
  return 1 / jnp.sqrt((1 - t) ** 2 + t**2)

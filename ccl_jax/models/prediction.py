"""The quantity that a stream's network F predicts, and the velocity from it.

With the names of diffusers' `prediction_type`:

    flow_prediction   v = F(x_t, 1000 t)
    epsilon           v = (e - x_t) / (1 - t),   e = F((a_k + s_k) x_t, k)   (1)

The second is a DDPM's prediction of noise at its step k, as in the published
weights of DiT: `ops/noise_schedule.py` has k, a_k and s_k for t. Eq. 1 follows
from x_t = (1 - t) x0 + t noise and v = noise - x0. Thus Euler's steps are those
of DDIM (eta 0), and guidance of v is guidance of e. Times after the last step
of the schedule are replaced by that step's, where 1 - t is 0.006.
"""

import jax.numpy as jnp

from ccl_jax.array_types import Array, Float, expand
from ccl_jax.ops import noise_schedule

TIME_SCALE = 1000.0


class FlowPrediction:
  """The velocity itself."""

  def scale_input(
    self, x: Float[Array, " b *dims"], t: Float[Array, " b *fs"]
  ) -> Float[Array, " b *dims"]:
    """Returns the input of F: latents of time t, (b,) or (b, f, 1)."""
    return x

  def scale_time(self, t: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """Returns the time of F."""
    return TIME_SCALE * t

  def velocity(
    self,
    output: Float[Array, " b *dims_out"],
    x: Float[Array, " b *dims"],
    t: Float[Array, " b *fs"],
  ) -> Float[Array, " b *dims"]:
    """Returns the velocity, from what F makes of latents x of time t."""
    return output


class EpsilonPrediction(FlowPrediction):
  """Eq. 1.

  Ignores the channels of F after those of the latents (a learned variance).
  """

  def scale_input(self, x, t):
    scale = noise_schedule.scale_of(_before_end(t))
    return x * expand(scale, x.ndim)

  def scale_time(self, t):
    return noise_schedule.step_of(t)

  def velocity(self, output, x, t):
    epsilon = output[..., : x.shape[-1]]
    return (epsilon - x) / expand(1 - _before_end(t), x.ndim)


def _before_end(t: Float[Array, "*b"]) -> Float[Array, "*b"]:
  """Returns the times, those after the last step as that step's."""
  return jnp.minimum(t, noise_schedule.STEP_TIMES[-1].astype(jnp.float32))


PREDICTIONS = {
  "flow_prediction": FlowPrediction(),
  "epsilon": EpsilonPrediction(),
}

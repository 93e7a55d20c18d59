"""The periodic activation and its filters."""

import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.codecs import snake


def test_low_pass_is_a_symmetric_half_band():
  h = snake.low_pass()
  np.testing.assert_allclose(h, h[::-1], atol=1e-7)
  np.testing.assert_allclose(h.sum(), 1, atol=1e-6)
  response = np.abs(np.fft.rfft(h, 512))
  assert response[32] > 0.95 and response[224] < 0.05


def test_sine_squared_is_as_exact_as_float32():
  x = np.linspace(-40, 40, 100_001).astype(np.float32)
  error = snake.sine_squared(jnp.asarray(x)) - np.sin(x.astype(np.float64)) ** 2
  assert np.abs(error).max() < 40 * 2.0**-23


@pytest.mark.parametrize("has_beta", [True, False])
@pytest.mark.parametrize("log_scale", [True, False])
def test_activation_of_a_constant_is_the_snake(has_beta, log_scale):
  module = snake.Snake(4, has_beta, log_scale)
  alpha = np.array([0.1, 0.5, 1.0, 2.0], np.float32)
  beta = alpha[::-1] if has_beta else alpha
  store = np.log if log_scale else np.asarray
  module.alpha.set_value(jnp.asarray(store(alpha)))
  if has_beta:
    module.beta.set_value(jnp.asarray(store(beta)))
  x = np.array([0.3, -1.2, 2.0, 0.7], np.float32)
  y = module(jnp.broadcast_to(x, (1, 5, 4)))
  expected = x + np.sin(alpha * x) ** 2 / beta
  np.testing.assert_allclose(y, np.broadcast_to(expected, y.shape), atol=1e-5)

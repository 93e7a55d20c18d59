"""Convolutions over time by their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.codecs import time_conv


def _draw(*shape):
  return jnp.asarray(np.random.default_rng(0).normal(size=shape), "float32")


@pytest.mark.parametrize(("size", "dilation"), [(1, 1), (3, 1), (7, 3)])
def test_conv_is_its_definition(size, dilation):
  x, kernel = _draw(2, 20, 3), _draw(size, 3, 4)
  y = np.zeros((2, 20, 4), np.float32)
  for t in range(20):
    for i in range(size):
      if 0 <= (s := t + (i - size // 2) * dilation) < 20:
        y[:, t] += x[:, s] @ kernel[i]
  np.testing.assert_allclose(time_conv.conv(x, kernel, dilation), y, atol=1e-5)


@pytest.mark.parametrize(("size", "rate"), [(8, 4), (4, 2), (16, 8), (6, 2)])
def test_conv_up_is_its_definition(size, rate):
  x, kernel = _draw(2, 5, 3), _draw(size, 3, 4)
  y = np.zeros((2, 5 * rate + size, 4), np.float32)
  for t in range(5):
    for i in range(size):
      y[:, t * rate + i] += x[:, t] @ kernel[i]
  cut = (size - rate) // 2
  np.testing.assert_allclose(
    time_conv.conv_transpose(x, kernel, rate),
    y[:, cut : cut + 5 * rate],
    atol=1e-5,
  )


def test_steps_that_are_not_there_do_not_matter():
  x, kernel = _draw(1, 12, 3), _draw(8, 3, 4)
  num = jnp.int32(7)
  for run in (
    lambda x, num=None: time_conv.conv(x, kernel[:5], 2, num),
    lambda x, num=None: time_conv.conv_transpose(x, kernel, 4, num),
  ):
    y = run(x[:, :7])
    np.testing.assert_allclose(run(x, num)[:, : y.shape[1]], y, atol=1e-5)


def test_conv_up_wants_kernels_of_whole_steps():
  for size in (5, 6):
    with pytest.raises(ValueError, match="multiple of rate"):
      time_conv.conv_transpose(_draw(1, 4, 2), _draw(size, 2, 2), 4)


def test_products_are_float32_on_every_platform():
  x, kernel = _draw(1, 8, 3), _draw(4, 3, 4)
  for run in (time_conv.conv, lambda x, k: time_conv.conv_transpose(x, k, 2)):
    text = str(jax.make_jaxpr(run)(x, kernel))
    assert "HIGHEST" in text and "bf16" not in text

"""Framed windows equal the definition and never hold an n x m array."""

import math
import re

import jax
import jax.numpy as jnp
import pytest

from ccl_jax.attention import Full, Mask, Window, attend
from tests.attention import cases


@pytest.mark.parametrize("name", cases.WINDOWS)
def test_framed_equals_reference(name):
  cases.assert_equals_reference("framed", *cases.WINDOWS[name])


def test_no_buffer_is_as_large_as_queries_times_keys():
  window = Window(16, 5, radius=1, num_context=3)
  n, m = cases.sizes(window, frames=16)

  def loss(q, k, v, sees):
    mask = Mask.routed(window, sees, n, m)
    return attend(q, k, v, mask, backend="framed").sum()

  arrays = cases.draw(n, m, b=1, k=1)
  step = jax.jit(jax.grad(loss, (0, 1, 2)))
  text = step.lower(*arrays, jnp.array([True])).compile().as_text()
  shapes = re.findall(r"\b(?:f32|s32|pred)\[([\d,]+)\]", text)
  sizes = [math.prod(map(int, shape.split(","))) for shape in shapes]
  assert n * window.keys_per_query <= max(sizes) < n * m


@pytest.mark.parametrize(
  "pattern, n, m",
  [
    (Full(), 6, 4),
    (Window(3, 2, radius=0), 7, 4),
    (Window(3, 2, radius=0), 6, 6),
  ],
)
def test_what_has_no_frames_is_refused_with_a_reason(pattern, n, m):
  with pytest.raises(ValueError, match="framed attention needs"):
    attend(*cases.draw(n, m), Mask(pattern), backend="framed")

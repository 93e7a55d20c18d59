"""Splash, interpreted, equals the definition for every kind of mask."""

import tracemalloc

import jax
import numpy as np
import pytest

from ccl_jax.attention import Window, attend, splash, splash_block_sizes
from ccl_jax.attention.target import CompileTarget
from tests.attention import cases

ROUTED = ["video, mixed routes", "audio, mixed routes"]
CASES = {name: cases.WINDOWS[name] for name in ROUTED} | cases.OTHERS


@pytest.mark.parametrize("name", CASES)
def test_splash_equals_reference(name):
  cases.assert_equals_reference("splash", *CASES[name])


def test_kernels_are_shared_and_hold_no_tracers():
  mask, n, m = cases.OTHERS["full"]
  arrays = cases.draw(n, m)
  inside = cases.run("splash", mask, *arrays)
  misses = splash.make_kernel.cache_info().misses
  outside = attend(*arrays, mask, backend="splash")
  np.testing.assert_allclose(inside, outside, atol=1e-6)
  assert splash.make_kernel.cache_info().misses == misses


def test_a_long_window_needs_little_host_memory():
  window = Window(256, 256, radius=1, num_context=8)
  n, m = cases.sizes(window, frames=40)
  tracemalloc.start()
  splash.make_kernel(
    window, 8, n, m, splash_block_sizes.choose(n, m, "cpu"), True, None
  )
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert peak < n * m / 8


def test_remat_can_keep_the_output_by_name():
  mask, n, m = cases.OTHERS["full"]

  def count_forward_kernels(policy):
    def loss(*arrays):
      out = attend(
        *arrays,
        mask,
        backend="splash",
        target=CompileTarget("tpu"),
        name="kept",
      )
      return out.sum()

    step = jax.value_and_grad(jax.checkpoint(loss, policy=policy))
    traced = jax.jit(step).trace(*cases.draw(n, m))
    text = traced.lower(lowering_platforms=("tpu",)).as_text()
    return text.count('kernel_name = "splash_mha_fwd')

  keep = jax.checkpoint_policies.save_only_these_names("kept")
  assert count_forward_kernels(policy=None) == 2
  assert count_forward_kernels(keep) == 1

"""The fused backward of splash, and jax's two kernels, over several blocks."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.pallas import tpu as pltpu

from ccl_jax.attention import (
  Mask,
  Window,
  attend,
  splash,
  splash_backward,
  splash_block_sizes,
)
from ccl_jax.attention.splash_block_sizes import Block, BlockSizes
from ccl_jax.attention.target import CompileTarget
from tests.attention import cases

WINDOW = Window(40, 30, radius=1, num_context=3)
WIDE = Window(50, 60, radius=3, num_context=70)
# One sample: `InterpretParams` knows no axes that `vmap` adds. Lengths that no
# other test has: each case compiles programs of its own.
CASES = {
  "full": (Mask(), 300, 600),
  "full, whole blocks": (Mask(), 384, 512),
  "full, key lengths": (Mask(k_lengths=jnp.array([570])), 310, 610),
  "full, few keys": (Mask(k_lengths=jnp.array([130])), 310, 610),
  "window": (Mask(WINDOW), *cases.sizes(WINDOW, frames=12)),
  "wide window": (Mask(WIDE), *cases.sizes(WIDE, frames=10)),
  "window, routed": cases.routed(WINDOW, (True,)),
  "window, not routed": cases.routed(WINDOW, (False,)),
}
SMALL = Block(128, 128, 128)
FUSED = {"one part": SMALL, "two parts": Block(128, 256, 128)}


def set_sizes(monkeypatch, fused):
  sizes = BlockSizes(SMALL, SMALL, SMALL, fused)
  monkeypatch.setattr(splash, "choose", lambda *_: sizes)


@pytest.mark.parametrize("name", CASES)
def test_blocks_add_up(name, monkeypatch):
  mask, n, m = CASES[name]
  whole = splash_block_sizes.padded(m) % 256 == 0
  set_sizes(monkeypatch, FUSED["two parts" if whole else "one part"])
  # As on a chip: copies of blocks to and from memory that may not be there yet.
  monkeypatch.setattr(
    splash_backward,
    "gradients",
    functools.partial(_interpreted_as_a_tpu, splash_backward.gradients),
  )
  cases.assert_equals_reference("splash", mask, n, m, b=1)


def _interpreted_as_a_tpu(gradients, *args, interpret, **kwargs):
  assert interpret
  return gradients(*args, interpret=pltpu.InterpretParams(), **kwargs)


def test_two_kernels_are_equal_too(monkeypatch):
  set_sizes(monkeypatch, fused=None)
  mask, n, m = Mask(WINDOW), *cases.sizes(WINDOW, frames=11)
  cases.assert_equals_reference("splash", mask, n, m)


def test_blocks_are_hidden_partly_seen_or_seen():
  window = Window(64, 64, radius=3, num_context=64)
  visible = splash.VisibleInPattern(window, 1000, 1088)
  states = splash_backward.block_states(
    visible, 1024, 1152, Block(256, 128, 128)
  )
  assert states.tolist() == [
    [2, 2, 1, 1, 0, 0, 0, 0, 0],
    [1, 1, 1, 2, 1, 1, 0, 0, 0],
    [1, 0, 0, 1, 1, 2, 1, 1, 0],
    [1, 0, 0, 0, 0, 1, 1, 2, 1],
  ]
  padded = splash.VisibleInPattern(Mask().pattern, 300, 600)
  states = splash_backward.block_states(padded, 384, 640, SMALL)
  assert states.tolist() == [[2, 2, 2, 2, 1]] * 3


def kernels_of(kind, n=27_648, heads=2):
  """Returns {name: (grid, dimension semantics)} of forward and backward."""
  x = jax.ShapeDtypeStruct((1, n, heads, 128), jnp.bfloat16)

  def loss(q, k, v):
    target = CompileTarget("tpu", kind)
    return attend(q, k, v, backend="splash", target=target).sum()

  traced = jax.make_jaxpr(jax.grad(loss, (0, 1, 2)))(x, x, x)
  found = {}
  for eqn in _equations(traced.jaxpr):
    if eqn.primitive.name == "pallas_call":
      params = eqn.params
      semantics = params["compiler_params"].dimension_semantics
      grid = params["grid_mapping"].grid
      found[params["name"]] = grid, semantics
  return found


def _equations(jaxpr):
  for eqn in jaxpr.eqns:
    yield eqn
    for value in jax.tree.leaves(list(eqn.params.values())):
      if hasattr(value, "jaxpr") or hasattr(value, "eqns"):
        yield from _equations(getattr(value, "jaxpr", value))


@pytest.mark.parametrize(
  "kind, phases",
  [
    ("TPU v5", {"dkv_dq"}),
    ("TPU v5 lite", {"dkv_dq"}),
    ("TPU v4", {"dq", "dkv"}),
  ],
)
def test_one_kernel_where_a_head_fits_into_vmem(kind, phases):
  expected = {f"splash_mha_{phase}_no_residuals" for phase in phases}
  assert set(kernels_of(kind)) == {"splash_mha_fwd_residuals"} | expected


@pytest.mark.parametrize("kind", ["TPU v5", "TPU v4"])
def test_both_cores_of_a_chip_have_a_share(kind):
  for grid, semantics in kernels_of(kind).values():
    vmapped = ("parallel",) * (len(grid) - len(semantics))
    axes = zip(grid, vmapped + semantics, strict=True)
    assert any(size > 1 and "parallel" in str(each) for size, each in axes)

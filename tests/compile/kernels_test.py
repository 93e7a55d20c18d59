"""Kernels compile for a chip: their blocks fit into its VMEM."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import jax, jax.numpy as jnp
from ccl_jax.compile import topology
from ccl_jax.models import ada_norm, qk_rope

device = topology.devices("v5p:2x2x1")[0]
sharding = jax.sharding.SingleDeviceSharding(device)
d, frames, s = 5120, 3, 880
f32 = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
own = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.dtype("{dtype}"))

def rotate_and_gradients(g, a, vectors, angles):
  rotate = lambda a, v: qk_rope.norm_rotate(a, v, angles)
  out, vjp = jax.vjp(rotate, a, vectors)
  return out, vjp(g)

def modulate_and_gradients(g, x, shift, scale):
  out, vjp = jax.vjp(ada_norm.modulate_by_frame, x, shift, scale)
  return out, vjp(g)

def compile(function, *arrays):
  jax.jit(function, in_shardings=sharding).lower(*arrays).compile()

n = frames * s
compile(rotate_and_gradients,
  own(1, n, d // 128, 128), own(1, n, d), f32(2, d), f32(n, 64))
x, row = own(1, frames, s, d), f32(1, frames, 1, d)
compile(modulate_and_gradients, x, x, row, row)
"""


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_kernels_of_the_largest_model_compile(dtype):
  run(PROGRAM.format(dtype=dtype))


def run(program):
  """Runs it in a process that compiles as users do."""
  command = [sys.executable, "-c", program]
  cpu = ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS")
  env = {k: v for k, v in os.environ.items() if k not in cpu}
  done = subprocess.run(command, env=env, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr[-2000:]


ATTENTION = """
import jax, jax.numpy as jnp
from ccl_jax.attention import FrameBlocks, Full, Mask, attend
from ccl_jax.attention.target import target_of
from ccl_jax.compile import topology

device = topology.devices("v5p:2x2x1")[0]
sharding, target = jax.sharding.SingleDeviceSharding(device), target_of(device)
frames, s, r = 3, 880, 5  # of which two are real

def total(x):
  return jnp.sum(jnp.sin(x.astype(jnp.float32)))

def merged(q, k, v, ids):
  out, lse = attend(q, k, v, Mask(Full(2 * s)), target=target, with_lse=True)
  return total(out) + total(lse)

def blocks(q, k, v, ids):
  mask = Mask(FrameBlocks(s, r, 2), q_segments=ids, k_segments=ids)
  return total(attend(q, k, v, mask, target=target))

for function, n in ((merged, frames * s), (blocks, frames * (s + r))):
  x = jax.ShapeDtypeStruct((1, n, 2, 128), jnp.bfloat16)
  ids = jax.ShapeDtypeStruct((1, n), jnp.int32)
  step = jax.jit(jax.grad(function, (0, 1, 2)), in_shardings=sharding)
  text = step.lower(x, x, x, ids).compile().as_text()
  assert "splash_mha_fwd" in text and "splash_mha_dkv_dq" in text
"""


def test_both_forms_of_masked_attention_compile_with_their_gradients():
  run(ATTENTION)

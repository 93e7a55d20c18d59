"""A program of four devices, really compiled: what it sends and computes."""

import subprocess
import sys

import pytest

from ccl_jax.cost import hlo, matmul
from ccl_jax.cost.collectives import collectives
from tests.cost.found_loops import loops

PROGRAM = """
import os, sys
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
import jax, jax.numpy as jnp, numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec as P

mesh = Mesh(np.array(jax.devices()).reshape(2, 2), ("data", "fsdp"))

def run(w, x):
  def layer(x, w):
    w = lax.all_gather(w, "fsdp", axis=0, tiled=True)
    x = jnp.tanh(x @ w)
    return x, lax.psum(x, "data")
  def outer(x, _):
    return lax.scan(layer, x, w)
  y, s = lax.scan(outer, x, None, length=3)
  return lax.psum_scatter(y, "fsdp", scatter_dimension=1, tiled=True), s

run = jax.shard_map(
  run, mesh=mesh, in_specs=(P(None, "fsdp"), P("data")),
  out_specs=(P("data", "fsdp"), P()), check_vma=False)
shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((5, 16, 16), (8, 16))]
print(jax.jit(run).lower(*shapes).compile().as_text())
"""


@pytest.fixture(scope="module")
def program():
  done = subprocess.run(
    [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
  )
  return hlo.parse(done.stdout)


def test_collectives_run_in_nested_loops(program):
  found = {c.kind: c for c in collectives(program, {"data": 2, "fsdp": 2})}
  assert set(found) == {"all-gather", "all-reduce", "reduce-scatter"}
  gather, reduce, scatter = found.values()
  assert (gather.count, gather.axes) == (15, ("fsdp",))
  assert (gather.result, gather.wire) == (4 * 16 * 16, 4 * 16 * 16 / 2)
  assert (reduce.count, reduce.axes) == (15, ("data",))
  assert (reduce.result, reduce.wire) == (4 * 4 * 16, 4 * 4 * 16)
  assert (scatter.count, scatter.axes, scatter.loop) == (1, ("fsdp",), None)
  assert (scatter.result, scatter.wire) == (4 * 4 * 8, 4 * 4 * 8)


def test_a_scanned_product_is_exact(program):
  assert matmul.matmul_flops(program) == 15 * 2 * 4 * 16 * 16
  assert [loop.trips for loop in loops(program)] == [3, 5]

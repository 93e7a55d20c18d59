"""Counts the instruction bundles of the attention kernels, without a TPU.

    python -m tests.bench.bundles [--topology=v5p:2x2x1] [--tokens=8192]

libtpu writes the final schedule of each kernel (LLO) to a folder: a line for
each bundle, which takes a cycle unless it waits. The longest run of bundles
between branches is the body that is executed for a pair of blocks; its products
alone need their FLOPs / (peak / cores / clock) cycles. A kernel whose schedule
has a `PrimaryCoreRegion` leaves the second core of a chip idle.
"""

import argparse
import os
import pathlib
import re
import tempfile
from typing import NamedTuple

_BUNDLES = re.compile(r"^\s*(0x[0-9a-f]+|0)\s")


class Schedule(NamedTuple):
  """Bundles in all, those of the longest body, and its matrix instructions."""

  total: int
  body: int
  products: int
  is_split: bool


def read(text: str) -> Schedule:
  """Reads one kernel's final bundles."""
  address = begin = products = 0
  bodies = []
  for line in text.splitlines():
    if found := _BUNDLES.match(line):
      address = int(found[1], 16)
    products += len(re.findall(r"vmatmul", line))
    if "sbr.rel" in line:  # a branch ends a body
      bodies.append((address - begin, products))
      begin, products = address, 0
  bodies.append((address - begin, products))
  body, products = max(bodies)
  return Schedule(address + 1, body, products, "PrimaryCoreRegion" not in text)


def dump(folder: str, topology_name: str, tokens: int, heads: int) -> None:
  """Compiles attention, forward and backward; libtpu writes to `folder`."""
  os.environ["LIBTPU_INIT_ARGS"] = (
    f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true"
  )
  import jax
  import jax.numpy as jnp

  from ccl_jax.attention import attend
  from ccl_jax.attention.target import target_of
  from ccl_jax.compile import topology

  device = topology.devices(topology_name)[0]
  sharding = jax.sharding.SingleDeviceSharding(device)
  x = jax.ShapeDtypeStruct((1, tokens, heads, 128), jnp.bfloat16)

  def gradients(q, k, v, g):
    call = lambda *a: attend(*a, backend="splash", target=target_of(device))  # noqa: E731
    return jax.vjp(call, q, k, v)[1](g)

  jax.jit(gradients, in_shardings=sharding).lower(x, x, x, x).compile()


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
  parser.add_argument(
    "--topology", default="v5p:2x2x1", help="chips; v5p:2x2x1 by default"
  )
  parser.add_argument(
    "--tokens", type=int, default=8192, help="queries and keys; 8192 by default"
  )
  parser.add_argument(
    "--heads", type=int, default=2, help="of 128 channels; 2 by default"
  )
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    dump(folder, args.topology, args.tokens, args.heads)
    last = {}  # of each kernel, the pass with the highest number
    for path in sorted(pathlib.Path(folder).glob("*splash*final_bundles.txt")):
      last[re.search(r"splash\w*", path.name)[0]] = path.read_text()
    for name, text in last.items():
      found = read(text)
      cores = "all cores" if found.is_split else "one core"
      print(
        f"{name}: {found.total} bundles, {found.body} in the longest body with"
        f" {found.products} matrix instructions; {cores}"
      )


if __name__ == "__main__":
  main()

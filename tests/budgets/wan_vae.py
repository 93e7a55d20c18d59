"""Compiles the published Wan VAE's decoder for four chips; writes its memory.

    python -m tests.budgets.wan_vae

A clip of 352 x 640 x 121 in bfloat16, its columns split over a v5e:2x2. Needs
libtpu (pip install libtpu), and a minute or two.
"""

import json
import math
import pathlib
import time

import jax
import jax.numpy as jnp

from ccl_jax.codecs import runner, wan_vae, wan_video
from ccl_jax.codecs.wan_layers import COLUMNS
from ccl_jax.compile import topology
from ccl_jax.cost import chips, collectives, hlo, report
from ccl_jax.params import nnx_utils
from ccl_jax.params.sharding import Layout, make_mesh

FILE = pathlib.Path(__file__).with_suffix(".json")
TOPOLOGY = "v5e:2x2"
LATENTS = (1, 31, 44, 80, 16)
SPEC = (runner.ROWS, None, None, COLUMNS)


def lower(layout: Layout):
  """Returns the lowered decoder, from shapes."""
  params = nnx_utils.param_shapes(
    wan_vae.Autoencoder, wan_vae.PUBLISHED, layout
  )
  latents = jax.ShapeDtypeStruct(
    LATENTS, jnp.float32, sharding=layout.sharding(*SPEC)
  )
  return wan_video.decode.lower(
    params, latents, config=wan_vae.PUBLISHED, dtype="bfloat16", chunk=1,
    layout=layout,
  )  # fmt: skip


def measure() -> dict:
  """Returns memory per chip, and bytes sent.

  Raises:
    ValueError: it does not fit, or more than one frame's latents are gathered.
  """
  devices = topology.devices(TOPOLOGY)
  layout = runner.make_layout(make_mesh(devices, fsdp=1, context=len(devices)))
  began = time.monotonic()
  compiled = topology.compile_for(lower(layout))
  seconds = time.monotonic() - began
  found = collectives.collectives(
    hlo.parse(compiled.as_text()), dict(layout.mesh.shape)
  )
  gathered = max((c.result for c in found if "gather" in c.kind), default=0)
  # Keys or values of one latent frame: what attention needs, and no more.
  frame = 2 * math.prod(LATENTS[2:4]) * wan_vae.PUBLISHED.widths[-1]
  if gathered > 2 * frame:
    raise ValueError(f"{gathered} bytes are gathered, a frame has {frame}.")
  memory = report.memory(compiled.memory_analysis(), chips.chip_named(TOPOLOGY))
  wire: dict[str, float] = {}
  for c in found:
    wire[c.kind] = wire.get(c.kind, 0) + c.count * c.wire
  return {
    "topology": TOPOLOGY,
    "latents": LATENTS,
    "hbm_gb": {k: round(memory[k] / 1e9, 3) for k in memory if k != "headroom"},
    "headroom": round(memory["headroom"], 3),
    "largest_gather_mb": round(gathered / 1e6, 3),
    "frame_mb": round(frame / 1e6, 3),
    "wire_gb": {kind: round(b / 1e9, 3) for kind, b in sorted(wire.items())},
    "compile_seconds": round(seconds),
  }


def main() -> None:
  text = json.dumps(measure(), indent=2) + "\n"
  FILE.write_text(text)
  print(text)


if __name__ == "__main__":
  main()

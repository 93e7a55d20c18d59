"""Compiles the budgeted configs for their topologies and writes what they need.

    python -m tests.budgets.refresh [NAME ...]

Needs libtpu. A budget holds the figures that may not grow; the tests compile
some of them again and allow 2 % of noise.
"""

import json
import pathlib
import sys

from ccl_jax.compile import compile_report
from configs import pods

FOLDER = pathlib.Path(__file__).parent
# Name -> (config argument, topology, sections to change).
BUDGETS = {
  "14b-v5p": ("pod=v5p-4x4x4,size=14b", "v5p:4x4x4", {}),
  "14b-v6e": ("pod=v6e-16x16,size=14b", "v6e:16x16", {}),
  "14b-v5e": ("pod=v5e-16x16,size=14b", "v5e:16x16", {}),
  "14b-tpu7x": ("pod=tpu7x-4x4x4,size=14b", "tpu7x:4x4x4", {}),
  "14b-audio-v5p": ("pod=v5p-4x4x4,size=14b,stage=audio", "v5p:4x4x4", {}),
  "1.3b-v5e": ("pod=v5e-4x4,size=1.3b", "v5e:4x4", {}),
  "1.3b-two-slices": ("pod=v5e-4x4-two-slices,size=1.3b", "v5e:4x4", {}),
  # Two layers: quick enough to compile again in the tests.
  "small-v5p": (
    "pod=v5p-4x4x4,size=1.3b", "v5p:4x4x4", {"num_layers": 2},
  ),
  "small-v6e": (
    "pod=v6e-16x16,size=1.3b", "v6e:16x16", {"num_layers": 2},
  ),
}  # fmt: skip


def measure(name: str) -> dict[str, float | str]:
  """The figures of one budgeted config."""
  argument, topology, model = BUDGETS[name]
  config = pods.get_config(argument).to_dict()
  config["model"] |= model
  found, _ = compile_report(config, topology)
  return {"config": argument, "topology": topology} | figures(found)


def figures(found: dict) -> dict[str, float]:
  """What a budget holds of a report."""
  wire: dict[str, float] = {}
  for key, value in found["collectives"].items():
    axes = key.partition(" over ")[2]
    wire[axes] = wire.get(axes, 0) + value["wire"]
  return {
    "hbm_gb": round(found["hbm"]["total"] / 1e9, 3),
    "headroom": round(found["hbm"]["headroom"], 3),
    "hardware_over_model": round(found["hardware_over_model"], 3),
    "executed_over_model": round(found["executed_over_model"], 3),
    "copies_per_layer": round(found["copies_per_layer"]["count"], 1),
    "wire_gb": {axes: round(b / 1e9, 3) for axes, b in sorted(wire.items())},
    "mfu_bound": round(found["roofline"]["mfu"], 3),
  }


def main(names: list[str]) -> None:
  for name in names or BUDGETS:
    text = json.dumps(measure(name), indent=2) + "\n"
    (FOLDER / f"{name}.json").write_text(text)
    print(name, text, flush=True)


if __name__ == "__main__":
  main(sys.argv[1:])

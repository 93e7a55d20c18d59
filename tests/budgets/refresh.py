"""Compiles the budgeted configs for their topologies and writes what they need.

    python -m tests.budgets.refresh [NAME ...]

Needs libtpu (pip install libtpu), and minutes for each. A budget holds figures
that may not grow: look at what git then shows.
"""

import json
import pathlib
import sys

from ccl_jax.lowering import compile_report
from configs import pods

FOLDER = pathlib.Path(__file__).parent
SMALL = {
  "model": {"num_layers": 2},
  "encode": {"frames": 17, "size": (128, 128), "text_length": 128},
}
# Name -> (config argument, topology, sections to change).
BUDGETS = {
  "14b-v5p": ("pod=v5p-4x4x4,size=14b", "v5p:4x4x4", {}),
  "14b-v6e": ("pod=v6e-16x16,size=14b", "v6e:16x16", {}),
  "14b-v5e": ("pod=v5e-16x16,size=14b", "v5e:16x16", {}),
  "14b-tpu7x": ("pod=tpu7x-4x4x4,size=14b", "tpu7x:4x4x4", {}),
  "14b-audio-v5p": ("pod=v5p-4x4x4,size=14b,stage=audio", "v5p:4x4x4", {}),
  "1.3b-v5e": ("pod=v5e-4x4,size=1.3b", "v5e:4x4", {}),
  "1.3b-two-slices": ("pod=v5e-4x4-two-slices,size=1.3b", "v5e:4x4", {}),
  # Two layers of short clips: quick enough to compile again in the tests.
  "small-v5p": ("pod=v5p-4x4x4,size=1.3b", "v5p:4x4x4", SMALL),
  "small-v6e": ("pod=v6e-16x16,size=1.3b", "v6e:16x16", SMALL),
}  # fmt: skip


def measure(name: str) -> dict[str, float | str]:
  """The figures of one budgeted config."""
  argument, topology, sections = BUDGETS[name]
  config = pods.get_config(argument).to_dict()
  config |= {k: config[k] | fields for k, fields in sections.items()}
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

"""Compiles the budgeted configs for their topologies and writes what they need.

    python -m tests.budgets.refresh [NAME ...]

Needs libtpu (pip install libtpu), and minutes for each. What uses sparse cores
(tpu7x, and names that end so) needs jax 0.11: earlier ones cannot read back
what libtpu compiles. A budget holds figures that may not grow: look at what git
then shows.
"""

import json
import pathlib
import sys
import types
from collections.abc import Mapping
from typing import Any, NamedTuple

from ccl_jax.compile.lowering import compile_report
from configs import avdit, icac, lora, pods


class Budget(NamedTuple):
  """What is compiled: a config's argument, for a topology, with changes.

  The config is that of `configs/pods.py`, or of another file.
  """

  config: str
  topology: str
  changes: Mapping[str, Any] = types.MappingProxyType({})
  program: str = "train"
  file: types.ModuleType = pods


FOLDER = pathlib.Path(__file__).parent
SMALL = {
  "model": {"num_layers": 2},
  "encode": {"frames": 17, "size": (128, 128), "text_length": 128},
  "grad_accumulation_steps": 1,
}
# As MaxDiffusion's step was compiled: one sample on each chip, no average.
PEER = {
  "batch_size": 64,
  "grad_accumulation_steps": 1,
  "optimizer": {"ema_decay": 0.0},
}
FULL, KEPT = {"model": {"remat": "full"}}, {"model": {"remat": "attention"}}
LONG = {"encode": {"frames": 81, "size": (720, 1280)}}
VIDEO = "pod=v5p-4x4x4,size=14b,stage=video"
BUDGETS = {
  "14b-v5p": Budget("pod=v5p-4x4x4,size=14b", "v5p:4x4x4"),
  "14b-v6e": Budget("pod=v6e-16x16,size=14b", "v6e:16x16"),
  "14b-v6e-sparse-core": Budget(
    "pod=v6e-16x16,size=14b", "v6e:16x16", {"xla_options": ("sparse_core",)}
  ),
  "14b-v5e": Budget("pod=v5e-16x16,size=14b", "v5e:16x16"),
  "14b-tpu7x": Budget("pod=tpu7x-4x4x4,size=14b", "tpu7x:4x4x4"),
  "14b-audio-v5p": Budget("pod=v5p-4x4x4,size=14b,stage=audio", "v5p:4x4x4"),
  "14b-v5p-256": Budget("pod=v5p-4x8x8,size=14b", "v5p:4x8x8"),
  "14b-audio-v5p-256": Budget(
    "pod=v5p-4x8x8,size=14b,stage=audio", "v5p:4x8x8"
  ),
  "14b-v5p-1024": Budget("pod=v5p-8x8x16,size=14b", "v5p:8x8x16"),
  "14b-v5p-4096": Budget("pod=v5p-16x16x16,size=14b", "v5p:16x16x16"),
  "14b-tpu7x-256": Budget("pod=tpu7x-4x8x8,size=14b", "tpu7x:4x8x8"),
  "1.3b-v5e": Budget("pod=v5e-4x4,size=1.3b", "v5e:4x4"),
  "1.3b-two-slices": Budget("pod=v5e-4x4-two-slices,size=1.3b", "v5e:4x4"),
  "sample-14b-v5e": Budget("pod=v5e-2x4,size=14b", "v5e:2x4", program="sample"),
  "sample-14b-v6e": Budget("pod=v6e-2x4,size=14b", "v6e:2x4", program="sample"),
  "lora-14b-v6e": Budget("pod=v6e-2x4,size=14b", "v6e:2x4", file=lora),
  "lora-14b-v5e": Budget("pod=v5e-4x4,size=14b", "v5e:4x4", file=lora),
  "lora-1.3b-v5e": Budget("pod=v5e-2x4,size=1.3b", "v5e:2x4", file=lora),
  "icac-v5p": Budget("pod=v5p-4x4x4,size=14b", "v5p:4x4x4", file=icac),
  # 16 groups, and the frames of a clip on four chips.
  "icac-context-v5p": Budget(
    "pod=v5p-4x4x4,size=14b",
    "v5p:4x4x4",
    {
      "mesh": {"fsdp": 4, "context": 4},
      "sharding": {"self_attention": "ulysses"},
    },
    file=icac,
  ),
  "icac-full3d-v5p-256": Budget(
    "pod=v5p-4x8x8,size=14b,attention=full3d", "v5p:4x8x8", file=icac
  ),
  "avdit-v5e": Budget("pod=v5e-4x4,size=xl", "v5e:4x4", file=avdit),
  "video-a-full": Budget(VIDEO, "v5p:4x4x4", PEER | FULL),
  "video-a-kept": Budget(VIDEO, "v5p:4x4x4", PEER | KEPT),
  "video-b-full": Budget(VIDEO, "v5p:4x4x4", PEER | FULL | LONG),
  "video-b-kept": Budget(VIDEO, "v5p:4x4x4", PEER | KEPT | LONG),
  # Two layers of short clips.
  "small-audio-v5e": Budget(
    "pod=v5e-4x4,size=1.3b,stage=audio", "v5e:4x4", SMALL | {"batch_size": 32}
  ),
  "small-video-v6e": Budget(
    "pod=v6e-16x16,size=1.3b,stage=video",
    "v6e:16x16",
    SMALL | {"batch_size": 64},
  ),
}


def measure(name: str) -> dict[str, Any]:
  """The figures of one budgeted config."""
  argument, topology, changes, program, file = BUDGETS[name]
  config = file.get_config(argument).to_dict()
  for key, value in changes.items():
    is_section = isinstance(value, dict)
    config[key] = config[key] | value if is_section else value
  found, _ = compile_report(config, topology, program)
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
    "mfu_schedule": round(found["schedule"]["mfu"], 3),
    "step_seconds": round(found["schedule"]["step"], 3),
  }


def main(names: list[str]) -> None:
  for name in names or BUDGETS:
    text = json.dumps(measure(name), indent=2) + "\n"
    (FOLDER / f"{name}.json").write_text(text)
    print(name, text, flush=True)


if __name__ == "__main__":
  main(sys.argv[1:])

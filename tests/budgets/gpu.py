"""Counts the memory that a layout of GPUs needs, by shapes; writes it.

    python -m tests.budgets.gpu

No GPU was at hand, and XLA for CPUs has other temporaries: counted are the
training state, one gradient beside the accumulated one, and all that the
forward pass keeps for the backward pass. The temporaries of one block come on
top.
"""

import json
import math
import pathlib
from collections.abc import Iterable
from typing import Any

import jax

from ccl_jax.compile.lowering import latent_shapes
from ccl_jax.params import trees
from ccl_jax.training.batch import abstract_batch
from ccl_jax.training.setup import TrainSetup, make_setup
from ccl_jax.training.state import abstract_state
from ccl_jax.training.step import loss_and_metrics, make_example
from configs import lora, pods

FILE = pathlib.Path(__file__).with_suffix(".json")
LAYOUTS = {
  "pod=gpu-1,size=1.3b": pods,
  "pod=gpu-8,size=1.3b": pods,
  "pod=gpu-1,size=14b": lora,
}


def num_bytes(arrays: Iterable[Any]) -> int:
  """Returns the bytes of these shapes on one device."""
  return sum(
    math.prod(x.sharding.shard_shape(x.shape) if x.sharding else x.shape)
    * x.dtype.itemsize
    for x in arrays
  )


def kept_bytes(setup: TrainSetup, batch: Any) -> int:
  """Returns the bytes that the backward pass of these rows reads again."""
  state = abstract_state(setup)
  halves = state["trainable"], state["frozen"]

  def keep(trainable, frozen, batch):
    example = make_example(batch, jax.random.key(0), setup)

    def loss(trainable):
      params = trees.join(trainable, frozen)
      return loss_and_metrics(params, example=example, setup=setup)

    return jax.vjp(loss, trainable, has_aux=True)[1]

  given = {(x.shape, x.dtype) for x in jax.tree.leaves(halves)}
  kept = jax.tree.leaves(jax.eval_shape(keep, *halves, batch))
  return num_bytes(x for x in kept if (x.shape, x.dtype) not in given)


def measure(argument: str) -> dict[str, Any]:
  """Returns GB on one device of a layout."""
  config = LAYOUTS[argument].get_config(argument).to_dict()
  config["xla_options"] = ()  # those of GPUs
  count = config["mesh"]["data"] * config["mesh"]["fsdp"]
  setup = make_setup(config, jax.devices()[:count])
  state = abstract_state(setup)
  parts = setup.grad_accumulation_steps
  one = {"mesh": {}, "batch_size": 1, "grad_accumulation_steps": 1}
  row = make_setup(config | one, jax.devices()[:1])
  kept = kept_bytes(row, abstract_batch(row, latent_shapes(config)))
  rows = setup.num_rows // (parts * count)
  gradient = num_bytes(jax.tree.leaves(state["trainable"]))
  found = {
    "state_gb": num_bytes(jax.tree.leaves(state)),
    "gradients_gb": gradient * (2 if parts > 1 else 1),
    "kept_gb": rows * kept,
  }
  return {
    "config": argument, "devices": count, "parts": parts, "rows": rows,
    **{name: round(b / 1e9, 2) for name, b in found.items()},
    "total_gb": round(sum(found.values()) / 1e9, 2),
  }  # fmt: skip


def main() -> None:
  jax.config.update("jax_num_cpu_devices", 8)
  text = json.dumps([measure(each) for each in LAYOUTS], indent=2) + "\n"
  FILE.write_text(text)
  print(text)


if __name__ == "__main__":
  main()

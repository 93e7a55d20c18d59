"""Compiles for a TPU pod on a machine without TPUs.

libtpu (pip install libtpu) knows every topology, "v5p:4x4x4", and compiles for
it on a CPU. The result is the program that the pod would run, with its memory.
A program that does not fit raises an error of one line.
"""

import os
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import topologies

_MAX_BLOCKS = 4  # of memory, that a message names
# Without these, libtpu looks for its host and allows one process at a time.
_ENVIRONMENT = {
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_ACCELERATOR_TYPE": "v5p-32",
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def devices(topology: str, slices: int = 1) -> Sequence[Any]:
  """Returns the devices of `slices` slices of a topology, "v5e:16x16".

  Raises:
    ValueError: libtpu is missing, or it does not know the topology.
  """
  os.environ.update(_ENVIRONMENT)
  jax.config.update("jax_platforms", "cpu")
  more = {"num_slices": slices} if slices > 1 else {}
  try:
    found = topologies.get_topology_desc(
      platform="tpu", topology_name=topology, **more
    )
  except Exception as error:  # libtpu has no error type of its own
    reason = str(error).strip().splitlines()[0] if str(error) else repr(error)
    raise ValueError(
      f"{topology=}: libtpu cannot make it ({reason}). Expected a name"
      " such as v5p:4x4x4, v5e:16x16, v6e:16x16 or tpu7x:4x4x4, and libtpu"
      " installed (pip install libtpu)."
    ) from error
  return found.devices


def compile_for(lowered: Any) -> Any:
  """Compiles a lowered program.

  Raises:
    ValueError: the program needs more memory than a chip has (the message
      names the largest contributors), or uses sparse cores and this jaxlib
      cannot read it back.
  """
  try:
    return lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    text = str(error)
    if "async-update instruction" in text:
      raise ValueError(
        "This program runs collectives on sparse cores, which"
        f" {jax.__version__=} cannot read back: install jax 0.11. On v6e they"
        " are off without sparse_core in config.xla_options."
      ) from None
    if "RESOURCE_EXHAUSTED" not in text:
      raise
    raise ValueError(explain(text)) from None


def explain(text: str) -> str:
  """Shortens libtpu's report on a program that does not fit to one line."""
  used = re.search(r"Used ([\d.]+\w) of ([\d.]+\w)", text) or re.search(
    r"temporaries \(([\d.]+\w)\) exceeds available HBM \(([\d.]+\w)", text
  )
  amount = f"{used[1]} of {used[2]}" if used else "more than it has"
  blocks = re.split(r"\bSize: ", text)[1 : _MAX_BLOCKS + 1]
  largest = "; ".join(_contributor(block) for block in blocks)
  return (
    f"Out of memory: the program needs {amount} of a chip's HBM. Largest:"
    f" {largest or 'unknown'}. Increase config.grad_accumulation_steps or"
    " config.mesh.context, or set config.model.remat to full or offload."
  )


def _contributor(block: str) -> str:
  """Returns a line such as "10.4G bf16[40,27280,5120] of dot_general"."""
  shape = re.search(r"Shape: (\w+\[[\d,]*\])", block)
  source = re.search(r'op_name="([^"]*)"', block)
  parts = [block.split()[0], shape[1] if shape else ""]
  if source:
    parts.append(f"of {source[1].split('/')[-1]}")
  return " ".join(part for part in parts if part)

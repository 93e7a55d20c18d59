"""XLA compiler options, from `config.xla_options`.

They are passed to the compiler with the program and not through XLA_FLAGS, so
that `ccl_jax.compile` uses the same ones for a pod that is not at hand. A group
is a name for several options, which depend on the chip. libtpu compiles with
all groups; none is on by default, because none has been timed on a TPU. The GPU
options follow the section on communication of JAX's "GPU performance tips" and
are untimed too.

Collectives that run beside computation need no option on v5e, where libtpu
continues them through fusions, nor on tpu7x, whose sparse cores run them. On
v6e sparse cores run them with the group `sparse_core`; with libtpu 0.0.52
`xla_tpu_enable_async_collective_fusion` changes nothing there, and fails
together with `xla_enable_async_all_gather`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from ccl_jax.config import FORMS
from ccl_jax.cost import chips

# (part of an option's name, chips on which it fails, how)
REFUSED = (
  ("sparse_core", ("v4", "v5e", "v5p"), "these chips hang with it"),
  (
    "async_collective_fusion", ("v5p",),
    "libtpu does not compile continuation fusion for them",
  ),
)  # fmt: skip

# Weights are gathered and gradients scattered a layer at a time: a layer of the
# 14b model has 0.7 GB in bfloat16. XLA's own options are typed, not strings.
_GIB = 1 << 30
_OVERLAP_GPU = {
  "xla_gpu_enable_latency_hiding_scheduler": True,
  "xla_gpu_all_gather_combine_threshold_bytes": _GIB,
  "xla_gpu_reduce_scatter_combine_threshold_bytes": _GIB,
  "xla_gpu_all_reduce_combine_threshold_bytes": _GIB,
}


def _sparse_core(value: str) -> dict[str, str]:
  """Returns options that run collectives on the sparse cores, or not."""
  offload = "xla_tpu_enable_sparse_core_collective_offload_"
  return {
    offload + kind: value
    for kind in ("all_gather", "reduce_scatter", "all_reduce")
  }


# Group -> chip -> options.
GROUPS = {
  "overlap": {"gpu": _OVERLAP_GPU},
  "large_vmem": {
    "v6e": {"xla_tpu_scoped_vmem_limit_kib": "98304"},
    "v5p": {"xla_tpu_scoped_vmem_limit_kib": "65536"},
  },
  "sparse_core": dict.fromkeys(("v6e", "tpu7x"), _sparse_core("true")),
  "no_sparse_core": dict.fromkeys(("v6e", "tpu7x"), _sparse_core("false")),
}


def compiler_options(
  entries: Sequence[Any], device_kind: str
) -> dict[str, Any]:
  """Returns the options for a kind of device.

  Args:
    entries: names of groups, and (name, value) such as
      ("xla_tpu_scoped_vmem_limit_kib", "98304"); later ones win.
    device_kind: JAX's name of the device.

  Raises:
    ValueError: no name or pair, a group that is unknown or not for this chip,
      an option that is known to fail on it, or a name that is not XLA's.
  """
  chip = chips.chip_of(device_kind)
  kind = chip.name if chip else device_kind
  if "NVIDIA" in device_kind:
    kind = "gpu"
  found: dict[str, Any] = {}
  for entry in entries:
    match entry:
      case str() if entry in GROUPS:
        found |= _group(entry, kind)
      case [str(name), value]:
        found[name] = value
      case _:
        raise ValueError(
          f"xla_options has {entry!r}: expected names of groups, or pairs,"
          f" --config.xla_options={FORMS['xla_options']}; the groups are"
          f" {', '.join(GROUPS)}."
        )
  for name, value in found.items():
    if not name.startswith("xla_"):
      raise ValueError(
        f"xla_options: '{name}': expected a name like 'xla_...'."
      )
    for part, kinds, reason in REFUSED:
      is_on = str(value).lower() not in ("false", "0")
      if part in name and is_on and kind in kinds:
        raise ValueError(f"xla_options: '{name}' on {kind}: {reason}.")
  return found


def check_options(options: Mapping[str, Any], device: jax.Device) -> None:
  """Compiles an empty program with options: before what takes minutes.

  Args:
    device: of this process, or of a topology that is not at hand.

  Raises:
    ValueError: an option that the compiler does not know, or a wrong value.
  """
  program = jax.jit(
    lambda: 0, out_shardings=jax.sharding.SingleDeviceSharding(device),
    compiler_options=dict(options),
  )  # fmt: skip
  try:
    program.lower().compile()
  except jax.errors.JaxRuntimeError as error:
    raise ValueError(f"xla_options: {error}") from error


def _group(name: str, chip: str) -> dict[str, Any]:
  if chip not in GROUPS[name]:
    raise ValueError(
      f"xla_options group '{name}' on {chip}: it is for"
      f" {', '.join(GROUPS[name])}."
    )
  return GROUPS[name][chip]

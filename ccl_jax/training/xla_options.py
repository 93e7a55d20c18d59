"""What the compiler is told beside the program: the config's `xla` section.

Options reach the compiler with the step itself and not through XLA_FLAGS, so
that compiling for a pod elsewhere (`ccl_jax.compile`) sees the same ones. A
group stands for several, those of the chip at hand. libtpu compiles with all of
them; none is on unless asked for, since none was timed here.
"""

import os
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath

from ccl_jax.cost import chips

# (part of an option's name, chips that cannot have it, what happens there)
REFUSED = (
  ("sparse_core", ("v4", "v5e", "v5p"), "these chips hang with it"),
  (
    "async_collective_fusion", ("v5p",),
    "libtpu does not compile continuation fusion for them",
  ),
)  # fmt: skip

_FUSION = "xla_tpu_enable_async_collective_fusion"
_OVERLAP = {
  _FUSION: "true",
  f"{_FUSION}_fuse_all_gather": "true",
  f"{_FUSION}_multiple_steps": "true",
  "xla_tpu_overlap_compute_collective_tc": "true",
}


def _sparse_core(value: str) -> dict[str, str]:
  """Collectives on the sparse cores, beside the others, or not at all."""
  offload = "xla_tpu_enable_sparse_core_collective_offload_"
  return {
    offload + kind: value
    for kind in ("all_gather", "reduce_scatter", "all_reduce")
  }


# Group -> chip -> options.
GROUPS = {
  "overlap": dict.fromkeys(("v5e", "v6e", "tpu7x"), _OVERLAP),
  "large_vmem": {
    "v6e": {"xla_tpu_scoped_vmem_limit_kib": "98304"},
    "v5p": {"xla_tpu_scoped_vmem_limit_kib": "65536"},
  },
  "sparse_core": dict.fromkeys(("v6e", "tpu7x"), _sparse_core("true")),
  "no_sparse_core": dict.fromkeys(("v6e", "tpu7x"), _sparse_core("false")),
}


def options(
  given: Sequence[str | tuple[str, Any]], device_kind: str
) -> dict[str, Any]:
  """The options for a kind of device.

  Args:
    given: names of groups, and (name, value) such as
      ("xla_tpu_scoped_vmem_limit_kib", "98304"); later ones win.
    device_kind: jax's name of the device.

  Raises:
    ValueError: a group that is unknown or not for this chip, an option that is
      known to fail on it, or one that is not of XLA.
  """
  chip = chips.chip_of(device_kind)
  found: dict[str, Any] = {}
  for entry in given:
    if isinstance(entry, str):
      found |= _group(entry, chip.name if chip else device_kind)
    else:
      found |= dict([entry])
  for name, value in found.items():
    if not name.startswith("xla_"):
      raise ValueError(f"xla option '{name}': expected a name like 'xla_...'.")
    for part, kinds, reason in REFUSED:
      is_on = str(value).lower() not in ("false", "0")
      if part in name and is_on and chip and chip.name in kinds:
        raise ValueError(f"xla option '{name}' on {chip.name}: {reason}.")
  return found


def _group(name: str, chip: str) -> dict[str, Any]:
  if name not in GROUPS:
    raise ValueError(f"xla group '{name}': expected one of {list(GROUPS)}.")
  if chip not in GROUPS[name]:
    raise ValueError(
      f"xla group '{name}' on {chip}: it is for {', '.join(GROUPS[name])}."
    )
  return GROUPS[name][chip]


def keep_programs(folder: epath.PathLike) -> None:
  """Puts compiled programs into `folder`, where the next start finds them.

  Where JAX_COMPILATION_CACHE_DIR has told jax another folder, that one stays.
  """
  if jax.config.jax_compilation_cache_dir is None:
    jax.config.update("jax_compilation_cache_dir", os.fspath(folder))

"""What the compiler is told beside the program: the config's `xla` section.

Options reach the compiler with the step itself and not through XLA_FLAGS, so
that compiling for a pod elsewhere (`ccl_jax.compile`) sees the same ones.
"""

from collections.abc import Sequence
from typing import Any

from ccl_jax.cost import chips

# (part of an option's name, chips that cannot have it, what happens there)
REFUSED = (
  ("sparse_core", ("v4", "v5e", "v5p"), "these chips hang with it"),
  (
    "async_collective_fusion", ("v5p",),
    "libtpu does not compile continuation fusion for them",
  ),
)  # fmt: skip


def options(
  given: Sequence[tuple[str, Any]], device_kind: str
) -> dict[str, Any]:
  """The options for a kind of device.

  Args:
    given: (name, value), such as ("xla_tpu_scoped_vmem_limit_kib", "98304").
    device_kind: jax's name of the device.

  Raises:
    ValueError: an option that is known to fail on this chip, or not of XLA.
  """
  chip = chips.chip_of(device_kind)
  for name, value in given:
    if not name.startswith("xla_"):
      raise ValueError(f"xla option '{name}': expected a name like 'xla_...'.")
    for part, kinds, reason in REFUSED:
      is_on = str(value).lower() not in ("false", "0")
      if part in name and is_on and chip and chip.name in kinds:
        raise ValueError(f"xla option '{name}' on {chip.name}: {reason}.")
  return dict(given)

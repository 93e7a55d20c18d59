"""What an attention is compiled for."""

from typing import NamedTuple

import jax


class CompileTarget(NamedTuple):
  """ "cpu", "gpu" or "tpu", and jax's name of the kind of device."""

  platform: str
  kind: str = ""


def target_of(device: jax.Device) -> CompileTarget:
  """What compiles for such a device, here or elsewhere."""
  return CompileTarget(device.platform, device.device_kind)

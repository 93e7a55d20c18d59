"""The device that an attention is compiled for."""

from typing import NamedTuple

import jax


class CompileTarget(NamedTuple):
  """A platform, "cpu", "gpu" or "tpu", and jax's name of its device kind."""

  platform: str
  kind: str = ""


def target_of(device: jax.Device) -> CompileTarget:
  """Returns the target of a device, which may be elsewhere."""
  return CompileTarget(device.platform, device.device_kind)

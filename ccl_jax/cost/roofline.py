"""Lower bounds on the time of a step, and so upper bounds on its MFU.

Per jax device, with the chip's published rates:

    compute = hardware FLOPs / peak
    ICI = wire bytes / rate of all links, of each mesh axis and of all together
    DCN likewise
    step >= max of these            if everything overlaps
    step >= compute + ICI + DCN     if nothing does (synchronous collectives)
    MFU <= model FLOPs / (peak * step)

These are bounds, not measurements: no kernel runs at peak, every link has
latency, and work that is not counted (vector units, memory-bound ops) takes
time too. Devices in one chip (tpu7x) share its rates; the faster link between
them is counted as ICI.
"""

import dataclasses
from collections.abc import Iterable, Mapping

from ccl_jax.cost.chips import Chip

Axes = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Roofline:
  """Lower bounds on times, in seconds, of one step on one device.

  Attributes:
    chip: its rates.
    model_flops: useful FLOPs per device, see `flops`.
    hardware_flops: executed FLOPs per device, with recomputation and padding.
    times: "compute", "ici", "ici/AXES" and "dcn".
  """

  chip: Chip
  model_flops: float
  hardware_flops: float
  times: dict[str, float]

  @property
  def step(self) -> float:
    """Returns the longest of all times: everything overlaps."""
    return max(self.times.values())

  @property
  def serial(self) -> float:
    """Returns the sum of computing and sending: nothing overlaps."""
    return max(
      self.step, sum(self.times.get(k, 0.0) for k in ("compute", "ici", "dcn"))
    )

  @property
  def limit(self) -> str:
    """Returns the name of the longest time."""
    return max(self.times, key=self.times.__getitem__)

  def mfu(self, seconds: float) -> float:
    """Returns model FLOPs over what the device could do in that time."""
    return self.model_flops * self.chip.devices / (self.chip.peak * seconds)


def roofline(
  chip: Chip,
  *,
  model_flops: float,
  hardware_flops: float,
  wire: Mapping[Axes, float],
  dcn_axes: Iterable[str] = ("dcn",),
) -> Roofline:
  """Computes the bounds of one step, from counts per jax device.

  Args:
    wire: mesh axes -> bytes that a device sends (`collectives`).
    dcn_axes: axes between slices; collectives over them use DCN.
  """
  share, slow = chip.devices, set(dcn_axes)
  times = {"compute": hardware_flops * share / chip.peak}
  ici = {axes: n for axes, n in wire.items() if not slow & set(axes)}
  times["ici"] = sum(ici.values()) * share / chip.ici
  for axes, sent in ici.items():
    times["ici/" + "+".join(axes)] = sent * share / chip.ici
  if len(ici) < len(wire):
    times["dcn"] = (sum(wire.values()) - sum(ici.values())) * share / chip.dcn
  return Roofline(chip, model_flops, hardware_flops, times)

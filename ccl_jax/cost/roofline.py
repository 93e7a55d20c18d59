"""Times that a step cannot beat on a chip, and so the MFU it cannot exceed.

Per jax device, with the chip's published rates:

    compute = hardware FLOPs / peak         HBM = bytes / rate
    ICI of axes A = wire bytes / (rate of the torus axes that A lies on)
    ICI in all = all wire bytes / rate of all links          DCN likewise
    step >= max of these            if everything overlaps
    step >= compute + ICI + DCN     if nothing does (synchronous collectives)
    MFU <= model FLOPs / (peak * step)

An upper bound and not a measurement: no kernel runs at peak, no link is free of
latency, and what is not counted (vector work, memory-bound ops) takes time too.
Devices in one chip (tpu7x) share its rates; between the two of them there is a
faster link, which is taken for ICI here.
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
    model_flops: useful FLOPs a device, see `flops`.
    hardware_flops: executed FLOPs a device: recomputation and padding too.
    times: "compute", "hbm" if known, "ici", "ici/AXES" and "dcn".
  """

  chip: Chip
  model_flops: float
  hardware_flops: float
  times: dict[str, float]

  @property
  def step(self) -> float:
    """The longest of all times: everything overlaps."""
    return max(self.times.values())

  @property
  def serial(self) -> float:
    """Computing and sending one after the other: nothing overlaps."""
    return max(
      self.step, sum(self.times.get(k, 0.0) for k in ("compute", "ici", "dcn"))
    )

  @property
  def limit(self) -> str:
    """What takes longest."""
    return max(self.times, key=self.times.__getitem__)

  def mfu(self, seconds: float) -> float:
    """Model FLOPs over what the device could do in that time."""
    return self.model_flops * self.chip.devices / (self.chip.peak * seconds)

  def table(self) -> str:
    """Times and bounds as text."""
    rows = [f"{'time':<24}{'ms':>10}"]
    rows += [f"{k:<24}{1e3 * v:>10.2f}" for k, v in self.times.items()]
    rows += [
      f"{name:<24}{1e3 * t:>10.2f}  MFU <= {100 * self.mfu(t):.1f} %"
      for name, t in (
        (f"all overlap ({self.limit})", self.step),
        ("nothing overlaps", self.serial),
      )
    ]
    head = f"{self.chip.name}: upper bound, not a measurement"
    return "\n".join([head, *rows])


def roofline(
  chip: Chip,
  *,
  model_flops: float,
  hardware_flops: float,
  wire: Mapping[Axes, float],
  hbm_bytes: float | None = None,
  torus_axes: Mapping[str, int] | None = None,
  dcn_axes: Iterable[str] = ("dcn",),
) -> Roofline:
  """The bounds of one step, from counts per jax device.

  Args:
    wire: mesh axes -> bytes that a device sends (`collectives`).
    hbm_bytes: bytes read and written, where known.
    torus_axes: mesh axis -> torus axes that it lies on. Without it each is
      taken to use the whole torus, which no bound should be stricter than.
    dcn_axes: axes between slices; what spans one of them goes over DCN.
  """
  share, far = chip.devices, set(dcn_axes)
  times = {"compute": hardware_flops * share / chip.peak}
  if hbm_bytes is not None:
    times["hbm"] = hbm_bytes * share / chip.hbm_rate
  near = {axes: n for axes, n in wire.items() if not far & set(axes)}
  times["ici"] = sum(near.values()) * share / chip.ici
  for axes, sent in near.items():
    rate = chip.axis_rate * _lanes(axes, torus_axes, chip.torus)
    times["ici/" + "+".join(axes)] = sent * share / rate
  if len(near) < len(wire):
    times["dcn"] = (sum(wire.values()) - sum(near.values())) * share / chip.dcn
  return Roofline(chip, model_flops, hardware_flops, times)


def _lanes(axes: Axes, torus_axes: Mapping[str, int] | None, torus: int) -> int:
  """Torus axes that a group along these mesh axes may use."""
  if torus_axes is None:
    return torus
  return max(1, min(torus, sum(torus_axes.get(a, torus) for a in axes)))

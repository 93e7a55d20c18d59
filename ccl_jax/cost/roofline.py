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

from collections.abc import Iterable, Mapping

from ccl_jax.cost.chips import Chip


def mfu(chip: Chip, model_flops: float, seconds: float) -> float:
  """Returns model FLOPs over what a device could do in that time."""
  return model_flops * chip.devices / (chip.peak * seconds)


def roofline(
  chip: Chip,
  *,
  model_flops: float,
  hardware_flops: float,
  wire: Mapping[tuple[str, ...], float],
  dcn_axes: Iterable[str] = ("dcn",),
) -> dict[str, float | str]:
  """Computes the bounds of one step, from counts per jax device.

  Args:
    model_flops: useful, see `flops`.
    hardware_flops: executed, with recomputation and padding.
    wire: mesh axes -> bytes that a device sends (`collectives`).
    dcn_axes: axes between slices; collectives over them use DCN.

  Returns:
    Seconds: "compute", "ici", "ici/AXES" and "dcn" (if it is used), "step" if
    everything overlaps and "serial" if nothing does. The MFU of both, and the
    name of the longest time, "limit".
  """
  share, slow = chip.devices, set(dcn_axes)
  times = {"compute": hardware_flops * share / chip.peak}
  ici = {axes: n for axes, n in wire.items() if not slow & set(axes)}
  times["ici"] = sum(ici.values()) * share / chip.ici
  for axes, sent in ici.items():
    times["ici/" + "+".join(axes)] = sent * share / chip.ici
  if len(ici) < len(wire):
    times["dcn"] = (sum(wire.values()) - sum(ici.values())) * share / chip.dcn
  step = max(times.values())
  serial = sum(times.get(k, 0.0) for k in ("compute", "ici", "dcn"))
  return times | {
    "step": step,
    "mfu": mfu(chip, model_flops, step),
    "limit": max(times, key=times.__getitem__),
    "serial": serial,
    "serial_mfu": mfu(chip, model_flops, serial),
  }

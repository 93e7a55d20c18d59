"""The cost of a compiled program, as one nested dict of numbers.

All are per jax device. FLOPs:

    model      useful work, by formula (`flops`)
    hardware   matrix products of the program, times the trips of its loops,
               plus those that the attention kernels need
    inner      what these kernels recompute inside (scores, in backward)

Hardware / model thus shows rematerialisation and padding, and
(hardware + inner) / model all that is executed. There are two estimates of
seconds: "roofline" is a bound by the chip's rates, "schedule" is what the
compiler expects of the program.
"""

from collections.abc import Mapping
from typing import Any

from ccl_jax.cost import collectives, copies, hlo, kernels, matmul
from ccl_jax.cost.chips import Chip
from ccl_jax.cost.roofline import mfu, roofline
from ccl_jax.cost.schedule import schedule


def memory(stats: Any, chip: Chip) -> dict[str, float]:
  """Returns HBM of a program in bytes, from `compiled.memory_analysis()`."""
  parts = {
    "arguments": stats.argument_size_in_bytes,
    "temporaries": stats.temp_size_in_bytes,
    "outputs": stats.output_size_in_bytes - stats.alias_size_in_bytes,
    "code": stats.generated_code_size_in_bytes,
  }
  total, limit = sum(parts.values()), chip.hbm / chip.devices
  return parts | {
    "total": total,
    "limit": limit,
    "headroom": 1 - total / limit,
    "host": stats.host_temp_size_in_bytes,
  }


def kernel_flops(program: hlo.Program) -> tuple[float, float]:
  """Returns FLOPs of the attention kernels: (needed, recomputed inside)."""
  found = [
    (k.count, kernels.splash_flops(k))
    for k in kernels.kernels(program)
    if kernels.is_attention(k)
  ]
  needed = sum(count * flops for count, (flops, _) in found)
  inner = sum(count * flops for count, (_, flops) in found)
  return needed, inner


def copies_per_layer(
  program: hlo.Program, num_layers: int, min_bytes: int
) -> dict[str, float]:
  """Counts activation-sized copies in the loops over the layers."""
  # The compiler may peel one layer off a loop.
  trips = (num_layers, num_layers - 1)
  found = copies.copies(program, min_bytes)
  inside = [c for c in found if c.loop and c.loop.trips in trips]
  return {
    "count": sum(c.count / c.loop.count for c in inside),
    "bytes": sum(c.bytes * c.count / c.loop.count for c in inside),
  }


def make_report(
  text: str,
  stats: Any,
  *,
  chip: Chip,
  mesh: Mapping[str, int],
  model_flops: Mapping[str, float],
  num_layers: int,
  activation: int,
  slices: int = 1,
) -> dict[str, Any]:
  """Makes the report of one program.

  Args:
    text: `compiled.as_text()`.
    stats: `compiled.memory_analysis()`.
    model_flops: useful FLOPs by part, per device.
    num_layers: of the model, to find the loops over them.
    activation: bytes of a residual stream; smaller copies are not counted.
    slices: of the pod; the `data` axis runs across them.
  """
  program = hlo.parse(text)
  found = collectives.collectives(program, mesh)
  needed, inner = kernel_flops(program)
  hardware = matmul.matmul_flops(program) + needed
  useful = sum(model_flops.values())
  by_axes = collectives.totals(found, key=lambda c: c.axes)
  wire = {axes: total["wire"] for axes, total in by_axes.items()}
  expected = schedule(program, chip, found)
  if expected:
    expected["mfu"] = mfu(chip, useful, expected["step"])
  return {
    "hbm": memory(stats, chip),
    "model_flops": {**model_flops, "total": useful},
    "hardware_flops": hardware,
    "inner_flops": inner,
    "hardware_over_model": hardware / useful,
    "executed_over_model": (hardware + inner) / useful,
    "collectives": {
      f"{kind} over {'+'.join(axes) or 'one device'}": total
      for (kind, axes), total in sorted(collectives.totals(found).items())
    },
    "wire": sum(wire.values()),
    "copies_per_layer": copies_per_layer(program, num_layers, activation),
    "roofline": roofline(
      chip,
      model_flops=useful,
      hardware_flops=hardware + inner,
      wire=wire,
      dcn_axes=("dcn", "data") if slices > 1 else ("dcn",),
    ),
    "schedule": expected,
  }


def table(report: Mapping[str, Any]) -> str:
  """Formats the report as text."""
  giga = lambda x: f"{x / 1e9:10.2f} GB"  # noqa: E731
  hbm, bound = report["hbm"], report["roofline"]
  rows = [(k, giga(hbm[k])) for k in hbm if k != "headroom"]
  rows.append(("headroom", f"{100 * hbm['headroom']:10.1f} %"))
  rows += [("", "")]
  parts = sorted(report["model_flops"].items(), key=lambda item: item[1])
  rows += [(f"model: {k}", f"{v / 1e12:10.2f} TFLOP") for k, v in parts]
  for name in ("hardware_flops", "inner_flops"):
    rows.append((name, f"{report[name] / 1e12:10.2f} TFLOP"))
  for name in ("hardware_over_model", "executed_over_model"):
    rows.append((name, f"{report[name]:10.3f}"))
  rows += [("", "")]
  rows += [
    (name, f"{giga(c['wire'])} on the wire, {c['executed']:.0f} operations")
    for name, c in report["collectives"].items()
  ]
  copied = report["copies_per_layer"]
  rows += [
    ("wire", giga(report["wire"])),
    ("copies per layer", f"{copied['count']:10.1f}{giga(copied['bytes'])}"),
    ("", ""),
  ]
  rows += [
    (f"bound: {k}", f"{1e3 * v:10.1f} ms")
    for k, v in bound.items()
    if k not in ("mfu", "serial_mfu", "limit")
  ]
  rows += [
    ("MFU if all overlaps", f"<= {100 * bound['mfu']:.1f} %"),
    ("MFU if nothing does", f"<= {100 * bound['serial_mfu']:.1f} %"),
    ("(upper bounds from published rates, not measurements)", ""),
  ]
  if expected := report["schedule"]:
    rows += [("", "")]
    rows += [
      (f"schedule: {k}", f"{v:10.3f} s")
      for k, v in (expected["seconds"] | {"step": expected["step"]}).items()
    ]
    rows += [
      ("MFU by the schedule", f"{100 * expected['mfu']:10.1f} %"),
      ("(the compiler's estimate, not a measurement)", ""),
    ]
    rows += [
      (f"on one core: {name}", f"{v:10.3f} s, no parallel axis of its grid")
      for name, v in expected["single_core"].items()
    ]
  width = max(len(name) for name, value in rows if value)
  return "\n".join(f"{name:<{width}}{value}".rstrip() for name, value in rows)

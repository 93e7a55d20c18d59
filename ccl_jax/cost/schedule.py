"""The compiler's own estimate of a step's time, by part.

libtpu schedules every op and writes the cycles that it expects,
`"estimated_cycles":"5678"`, into the compiled program. Ops outside of fusions
follow one another, so that on one device

    seconds = sum over ops of executions * cycles / clock                    (1)

A Pallas kernel is opaque and has no estimated cycles. Attention is counted at
the peak of the cores that it runs on, where Mosaic splits only the "parallel"
axes of a grid over the cores of a chip:

    seconds = FLOPs / (u * peak * min(cores, parallel turns) / cores)        (2)

with u the utilisation of the matrix units in the kernel's final schedule: 8192
cycles of products in 10019 bundles forward, and 1 backward (5 products of 1024
x 1024 x 128 take 10240 cycles, in 9024 bundles; `tests.bench.bundles` counts
them). Other kernels are counted at the rate of the memory, for all bytes that
they read and write. A collective is counted at the rate of all links: whole if
it is synchronous, else for as long as the core waits at its end (`overlap.py`).
One that continues through fusions, as on v5e, or goes to another slice, is
taken as hidden. So (1) is still optimistic, but much less so than a bound from
FLOPs alone.
"""

import re
from collections.abc import Iterable
from typing import Any

from ccl_jax.cost import hlo, kernels
from ccl_jax.cost.chips import Chip
from ccl_jax.cost.collectives import Collective
from ccl_jax.cost.copies import is_copy
from ccl_jax.cost.hlo_loops import ExecutedOp, executed_ops
from ccl_jax.cost.overlap import exposed_seconds

_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_PRODUCTS = {"dot", "convolution"}
_FORWARD_USE = 8192 / 10019
PARTS = (
  "matrix products", "attention", "other kernels", "elementwise", "copies",
  "collectives",
)  # fmt: skip


def schedule(
  program: hlo.Program, chip: Chip, communication: Iterable[Collective]
) -> dict[str, Any]:
  """Returns eq. 1 by part, empty for a program that has no cycles (of a GPU).

  Returns:
    "seconds" of each of `PARTS`, their sum "step", and "single_core", the names
    of kernels that leave a core idle, with their seconds.
  """
  seconds, busy = _cycles(program, chip)
  if not busy:
    return {}
  single_core: dict[str, float] = {}
  for kernel in kernels.kernels(program):
    part, spent, is_split = _kernel_seconds(kernel, chip)
    busy[kernel.op] = spent
    seconds[part] += spent * kernel.count
    if not is_split:
      spent = single_core.get(kernel.name, 0.0) + spent * kernel.count
      single_core[kernel.name] = spent
  sent: dict[str, float] = {}
  for each in communication:
    spent = _sent_seconds(each, chip)
    seconds["collectives"] += 0 if each.is_async else spent * each.count
    by_op = sent if each.is_async else busy
    by_op[each.op] = by_op.get(each.op, 0.0) + spent  # an op may hold two kinds
  seconds["collectives"] += exposed_seconds(program, busy, sent)
  step = sum(seconds.values())
  return {"seconds": seconds, "single_core": single_core, "step": step}


def _cycles(
  program: hlo.Program, chip: Chip
) -> tuple[dict[str, float], dict[str, float]]:
  """Returns eq. 1 by part, and the seconds of one run by name of the op."""
  seconds, busy = dict.fromkeys(PARTS, 0.0), {}
  for each in executed_ops(program):
    found = _CYCLES.search(each.op.attributes)
    if found is not None and each.fusion is None:
      busy[each.op.name] = int(found[1]) / chip.clock
      seconds[_part(program, each)] += busy[each.op.name] * each.count
  return seconds, busy


def _sent_seconds(each: Collective, chip: Chip) -> float:
  """Returns how long the links take for one run, at their full rate."""
  rate = chip.dcn if "dcn" in each.axes else chip.ici
  return each.wire * chip.devices / rate


def _part(program: hlo.Program, each: ExecutedOp) -> str:
  """Returns the part that an op with cycles belongs to."""
  op = each.op
  inner = {op.opcode}
  if op.opcode == "fusion":
    inner = {o.opcode for o in program[op.called("calls")].ops.values()}
  if inner & _PRODUCTS:
    return "matrix products"
  is_move = op.opcode in ("pad", "slice") or is_copy(program, each)
  return "copies" if is_move else "elementwise"


def _kernel_seconds(
  kernel: kernels.Kernel, chip: Chip
) -> tuple[str, float, bool]:
  """Returns (part, eq. 2 of one run, whether all cores have work)."""
  share = min(chip.cores, kernel.parallel_turns) / chip.cores
  if not kernels.is_attention(kernel):  # memory decides
    moved = hlo.size([*kernel.operands, *kernel.results])
    spent = moved * chip.devices / chip.hbm_rate
    return "other kernels", spent, share == 1
  use = _FORWARD_USE if "_fwd" in kernel.name else 1.0
  flops = sum(kernels.splash_flops(kernel)) * chip.devices
  spent = flops / (use * chip.peak * share)
  return "attention", spent, share == 1

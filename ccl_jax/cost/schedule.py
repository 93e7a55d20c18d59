"""The compiler's own estimate of a step's time, by part.

libtpu schedules every op and writes the cycles that it expects,
`"estimated_cycles":"5678"`, into the compiled program. Ops outside of fusions
follow one another, so that on one device

    seconds = sum over ops of executions * cycles / clock                    (1)

A Pallas kernel is opaque and has no cycles. Attention is counted at the peak of
the cores that it runs on: Mosaic splits only the "parallel" axes of a grid over
the cores of a chip,

    seconds = FLOPs / (u * peak * min(cores, parallel turns) / cores)        (2)

with u the use of the matrix units by the kernel's final schedule: 8192 cycles
of products in 10019 bundles forward, and all of them backward (5 products of
1024 x 1024 x 128 take 10240 cycles, in 9024 bundles; `tests.bench.bundles`
counts them). Other kernels are counted at the rate of the memory, for all they
read and write. A
collective is counted at the rate of all links, and only if it is synchronous:
one that runs beside computation is taken as hidden. So (1) is still optimistic,
but much less so than a bound from FLOPs alone.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping

from ccl_jax.cost import hlo, kernels
from ccl_jax.cost.chips import Chip
from ccl_jax.cost.collectives import Collective
from ccl_jax.cost.copies import is_copy
from ccl_jax.cost.hlo_loops import ExecutedOp, executed_ops

_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_PRODUCTS = {"dot", "convolution"}
_FORWARD_USE = 8192 / 10019


@dataclasses.dataclass(frozen=True)
class Schedule:
  """Estimated seconds of a step on one device, by part.

  Attributes:
    seconds: "matrix products", "attention", "other kernels", "elementwise",
      "copies" and "collectives".
    single_core: names of kernels that leave a core idle, with their seconds.
  """

  seconds: Mapping[str, float]
  single_core: Mapping[str, float]

  @property
  def step(self) -> float:
    """Returns the sum over all parts."""
    return sum(self.seconds.values())


def schedule(
  program: hlo.Program, chip: Chip, communication: Iterable[Collective]
) -> Schedule | None:
  """Returns eq. 1, or None for a program that has no cycles (of a GPU)."""
  seconds = dict.fromkeys(
    ("matrix products", "attention", "other kernels", "elementwise", "copies"),
    0.0,
  )
  has_cycles = False
  for each in executed_ops(program):
    found = _CYCLES.search(each.op.attributes)
    if found is None or each.fusion is not None:
      continue
    has_cycles = True
    seconds[_part(program, each)] += int(found[1]) * each.count / chip.clock
  if not has_cycles:
    return None
  single_core: dict[str, float] = {}
  for kernel in kernels.kernels(program):
    part, spent, is_split = _kernel_seconds(kernel, chip)
    seconds[part] += spent
    if not is_split:
      single_core[kernel.name] = single_core.get(kernel.name, 0.0) + spent
  exposed = [c for c in communication if not c.is_async]
  sent = {
    rate: sum(c.wire * c.count for c in exposed if ("dcn" in c.axes) == is_dcn)
    for rate, is_dcn in ((chip.ici, False), (chip.dcn, True))
  }
  seconds["collectives"] = sum(
    wire * chip.devices / rate for rate, wire in sent.items()
  )
  return Schedule(seconds, single_core)


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
  """Returns (part, eq. 2 of all executions, whether all cores have work)."""
  share = min(chip.cores, kernel.parallel_turns) / chip.cores
  if not kernels.is_attention(kernel):  # memory decides
    moved = hlo.size([*kernel.operands, *kernel.results])
    spent = moved * chip.devices / chip.hbm_rate
    return "other kernels", spent * kernel.count, share == 1
  use = _FORWARD_USE if "_fwd" in kernel.name else 1.0
  flops = sum(kernels.splash_flops(kernel)) * chip.devices
  spent = flops / (use * chip.peak * share)
  return "attention", spent * kernel.count, share == 1

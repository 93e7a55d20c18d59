"""A table of the chips, with published figures.

All are per chip and for dense bfloat16, in FLOP/s, bytes and bytes/s (vendors
print decimal G and T). Sources:

  TPU peak, HBM and ICI bandwidth, DCN: cloud.google.com/tpu/docs/v4, v5e, v5p,
    v6e, tpu7x. ICI is printed there as the sum of both directions of all links;
    here it is half of that, which is what one chip can send. v4: "6 links at 50
    GB/s" (Jouppi et al., arXiv:2304.01433).
  TPU HBM capacity: the limit of the compiler (libtpu 0.0.51) for one program, a
    little less than printed (v5p: 95.73 of 96 GiB). For v4, twice the limit for
    one core.
  DCN: printed for v5p, v6e, tpu7x; for v5e, two 100 Gb/s cards for 8 chips.
    Assumed: v4 like v5p; one network card per GPU, as in a DGX (200 and 400
    Gb/s).
  GPU: NVIDIA's data sheets of A100, H100 and H200 (SXM), without sparsity;
    "ici" is NVLink, half of the printed sum.

jax sees two devices in a tpu7x chip and one in all others (v4 and v5p run as
"megacore"; a v4 topology made for compiling may show two).
"""

import dataclasses

GIB = 2.0**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """One kind of chip.

  Attributes:
    name: as in `chip_named`.
    kinds: its names in jax's `device.device_kind`.
    peak: dense bfloat16 FLOP/s.
    hbm: bytes of memory that a program may use.
    hbm_rate: bytes/s of the memory.
    ici: bytes/s that a chip can send to its neighbours over all links.
    dcn: bytes/s out of the slice (or node).
    devices: jax devices in a chip.
    cores: TensorCores that run one program together, as one jax device.
    clock: cycles/s; 0 for a GPU. It follows from `peak` and the FLOPs of all
      matrix units in a cycle, 2 x 128 x 128 each, from v6e on 2 x 256 x 256.
  """

  name: str
  kinds: tuple[str, ...]
  peak: float
  hbm: float
  hbm_rate: float
  ici: float
  dcn: float
  devices: int = 1
  cores: int = 1
  clock: float = 0.0


_ALL = (
  Chip(
    "v4", ("TPU v4",), 275e12, 30.5 * GIB, 1200e9, 300e9, 6.25e9,
    cores=2, clock=1.05e9,
  ),
  Chip(
    "v5e", ("TPU v5 lite", "TPU v5e"), 197e12, 15.75 * GIB, 819e9, 200e9,
    3.125e9, clock=1.5e9,
  ),
  Chip(
    "v5p", ("TPU v5", "TPU v5p"), 459e12, 95.73 * GIB, 2765e9, 600e9,
    6.25e9, cores=2, clock=1.75e9,
  ),
  Chip(
    "v6e", ("TPU v6 lite", "TPU v6e"), 918e12, 31.24 * GIB, 1638e9, 400e9,
    12.5e9, clock=1.75e9,
  ),
  Chip(
    "tpu7x", ("TPU7x",), 2307e12, 2 * 94.74 * GIB, 7380e9, 600e9, 12.5e9,
    devices=2, clock=2.2e9,
  ),
  Chip(
    "a100-40g", ("NVIDIA A100-SXM4-40GB",), 312e12, 40 * GIB, 1555e9, 300e9,
    25e9,
  ),
  Chip(
    "a100", ("NVIDIA A100-SXM4-80GB",), 312e12, 80 * GIB, 2039e9, 300e9,
    25e9,
  ),
  Chip(
    "h100", ("NVIDIA H100 80GB HBM3",), 989e12, 80e9, 3350e9, 450e9, 50e9
  ),
  Chip(
    "h200", ("NVIDIA H200",), 989e12, 141e9, 4800e9, 450e9, 50e9
  ),
)  # fmt: skip
CHIPS = {chip.name: chip for chip in _ALL}
_BY_KIND = {kind: chip for chip in _ALL for kind in chip.kinds}


def chip_of(device_kind: str) -> Chip | None:
  """Returns the chip of a jax `device.device_kind`; None if unknown."""
  return _BY_KIND.get(device_kind)


def chip_named(name: str) -> Chip:
  """Returns the chip of a name or topology, "v5p:4x4x4"; ValueError if none."""
  chip = CHIPS.get(name.partition(":")[0])
  if chip is None:
    raise ValueError(f"chip {name!r}: expected one of {', '.join(CHIPS)}.")
  return chip


def count_chips(devices) -> int:
  """Counts the chips of these jax devices, by their coordinates."""
  places = {
    (getattr(d, "slice_index", 0), *getattr(d, "coords", (d.id,)))
    for d in devices
  }
  return len(places)

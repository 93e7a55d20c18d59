"""Block sizes of the splash kernel: a small table by chip and length.

A length is padded to blocks of 512, 256 or 128, whichever costs an eighth at
most. The table then says how large blocks should be; what is taken is the
largest multiple of 128 up to that which divides the padded length:

  27,280 tokens -> 27,648 = 27 x 1024; wanted 4096 -> 3072 = 3 x 1024       (1)

The forward kernel reads all keys once for each block of queries, n / q times in
all, so blocks of queries are as large as the chip's memory allows. The figures
were chosen by that count and by what libtpu compiles, not by timing.
"""

from typing import NamedTuple

from ccl_jax.cost import chips

_LANES = 128


class Blocks(NamedTuple):
  """Queries, keys in the chip's memory, and keys in one product."""

  q: int
  kv: int
  compute: int


class Sizes(NamedTuple):
  """Blocks of the forward pass, of dq, and of dk and dv."""

  forward: Blocks
  dq: Blocks
  dkv: Blocks


_SMALL = Sizes(*[Blocks(512, 512, 512)] * 3)
_LARGE = Sizes(
  Blocks(1024, 2048, 1024), Blocks(1024, 1024, 1024), Blocks(1024, 1024, 1024)
)
# Chip -> (shortest length of keys, sizes), longest first; others take _SMALL.
TABLE = {
  "v5p": ((4096, _LARGE),),
  "v6e": ((4096, _LARGE),),
  "tpu7x": ((4096, _LARGE),),
}


def padded(length: int) -> int:
  """`length` rounded up to whole blocks."""
  fits = (size for size in (512, 256) if -length % size <= length // 8)
  return length + -length % next(fits, _LANES)


def choose(n: int, m: int, device_kind: str) -> Sizes:
  """The sizes for n queries and m keys, all of which divide padded lengths.

  device_kind: jax's name of the device.
  """
  chip = chips.chip_of(device_kind)
  rows = TABLE.get(chip.name, ()) if chip else ()
  wanted = next((sizes for shortest, sizes in rows if m >= shortest), _SMALL)
  return Sizes(*(_fit(blocks, padded(n), padded(m)) for blocks in wanted))


def _fit(wanted: Blocks, n: int, m: int) -> Blocks:
  compute = _divisor(m, wanted.compute)
  return Blocks(_divisor(n, wanted.q), _divisor(m, wanted.kv, compute), compute)


def _divisor(length: int, most: int, step: int = _LANES) -> int:
  """The largest multiple of `step` up to `most` that divides `length`."""
  sizes = range(step, min(length, most) + 1, step)
  return max(size for size in sizes if length % size == 0)

"""Block sizes of the splash kernel: a small table by chip and length.

A length is padded to a multiple of 512, 256 or 128, the largest that adds an
eighth at most. The table has the wanted size of a block; the one used is the
largest multiple of 128 up to it that divides the padded length:

  27,280 tokens -> 27,648 = 27 x 1024; wanted 4096 -> 3072 = 3 x 1024       (1)

The forward kernel reads all keys once for each block of queries, n / q times in
all, so blocks of queries are as large as the chip's memory allows. The figures
were chosen by that count and by what libtpu compiles, not by timing.
"""

from typing import NamedTuple

from ccl_jax.cost import chips

_LANES = 128


class Block(NamedTuple):
  """Sizes of a block: queries, keys in VMEM, and keys in one product."""

  q: int
  kv: int
  compute: int


class BlockSizes(NamedTuple):
  """Block sizes of the forward kernel, of dq, and of dk and dv."""

  forward: Block
  dq: Block
  dkv: Block


_SMALL = BlockSizes(*[Block(512, 512, 512)] * 3)
_LARGE = BlockSizes(
  Block(1024, 2048, 1024), Block(1024, 1024, 1024), Block(1024, 1024, 1024)
)
# Chip -> (shortest length of keys, sizes), longest first; others take _SMALL.
TABLE = {
  "v5p": ((4096, _LARGE),),
  "v6e": ((4096, _LARGE),),
  "tpu7x": ((4096, _LARGE),),
}


def padded(length: int) -> int:
  """Rounds `length` up to a multiple of the block size."""
  fits = (size for size in (512, 256) if -length % size <= length // 8)
  return length + -length % next(fits, _LANES)


def choose(n: int, m: int, device_kind: str) -> BlockSizes:
  """Returns the sizes for n queries and m keys; they divide padded lengths.

  Args:
    device_kind: jax's name of the device.
  """
  chip = chips.chip_of(device_kind)
  rows = TABLE.get(chip.name, ()) if chip else ()
  wanted = next((sizes for shortest, sizes in rows if m >= shortest), _SMALL)
  return BlockSizes(*(_fit(blocks, padded(n), padded(m)) for blocks in wanted))


def _fit(wanted: Block, n: int, m: int) -> Block:
  compute = _divisor(m, wanted.compute)
  return Block(_divisor(n, wanted.q), _divisor(m, wanted.kv, compute), compute)


def _divisor(length: int, most: int, step: int = _LANES) -> int:
  """Returns the largest multiple of `step` <= `most` that divides `length`."""
  sizes = range(step, min(length, most) + 1, step)
  return max(size for size in sizes if length % size == 0)

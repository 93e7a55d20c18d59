"""Block sizes of the splash kernel: a small table by chip and length.

A length is padded to a multiple of 512, 256 or 128: the largest of these that
adds at most an eighth. The table has the maximum size of a block; the size used
is the largest multiple of 128 up to it that divides the padded length:

  27,280 tokens -> 27,648 = 27 x 1024; maximum 4096 -> 3072 = 3 x 1024      (1)

The forward kernel reads all keys once for each block of queries, n / q times in
all, so blocks of queries are as large as the chip's memory allows. The backward
pass is one kernel (`splash_backward`) where a head's float32 dq, n x e, fits
into the VMEM of a core, else jax's two. The sizes were chosen by these counts,
by what libtpu can compile and by its number of instructions, not by timing.
"""

from typing import NamedTuple

from ccl_jax.cost import chips

_LANES = 128
# MiB of VMEM of a core; of other chips, what each has at least.
_VMEM = {"v5e": 128, "v5p": 64, "v6e": 128, "tpu7x": 64}
_LEAST_VMEM = 16


class Block(NamedTuple):
  """Sizes of a block: queries, keys in VMEM, and keys in one product."""

  q: int
  kv: int
  compute: int


class BlockSizes(NamedTuple):
  """Block sizes of the forward kernel, of dq, of dk and dv, and of all three.

  Attributes:
    fused: None where the backward pass is two kernels, `dq` and `dkv`.
  """

  forward: Block
  dq: Block
  dkv: Block
  fused: Block | None


_SMALL = BlockSizes(*[Block(512, 512, 512)] * 4)
_LARGE = BlockSizes(
  Block(1024, 2048, 1024), Block(1024, 1024, 1024), Block(1024, 1024, 1024),
  Block(1024, 3072, 1024),
)  # fmt: skip
# Chip -> (shortest length of keys, sizes), longest first; others take _SMALL.
TABLE = {
  "v5e": ((4096, _SMALL._replace(fused=_LARGE.fused)),),
  "v5p": ((4096, _LARGE),),
  "v6e": ((4096, _LARGE),),
  "tpu7x": ((4096, _LARGE),),
}


def padded(length: int) -> int:
  """Rounds `length` up to a multiple of the block size."""
  fits = (size for size in (512, 256) if -length % size <= length // 8)
  return length + -length % next(fits, _LANES)


def choose(n: int, m: int, device_kind: str, e: int = _LANES) -> BlockSizes:
  """Returns the sizes for n queries and m keys; they divide padded lengths.

  Args:
    device_kind: jax's name of the device.
    e: width of a head.
  """
  chip = chips.chip_of(device_kind)
  name = chip.name if chip else ""
  n, m, e = padded(n), padded(m), e + -e % _LANES
  rows = TABLE.get(name, ())
  wanted = next((sizes for shortest, sizes in rows if m >= shortest), _SMALL)
  sizes = BlockSizes(*(_fit(block, n, m) for block in wanted))
  vmem = _VMEM.get(name, _LEAST_VMEM) * 2**20
  fits = fused_bytes(n, e, sizes.fused) <= vmem
  return sizes if fits else sizes._replace(fused=None)


def fused_bytes(n: int, e: int, block: Block) -> int:
  """Returns a bound of the fused backward's VMEM; n and e are padded."""
  sums = 4 * e * (n + 2 * block.kv)  # dq of all queries; dk and dv of a block
  windows = 2 * 4 * e * (3 * block.q + 4 * block.kv)  # float32, two of each
  ids = 2 * 4 * _LANES * block.kv
  logits = 10 * block.q * block.compute
  return sums + windows + ids + logits


def _fit(wanted: Block, n: int, m: int) -> Block:
  compute = _divisor(m, wanted.compute)
  return Block(_divisor(n, wanted.q), _divisor(m, wanted.kv, compute), compute)


def _divisor(length: int, most: int, step: int = _LANES) -> int:
  """Returns the largest multiple of `step` <= `most` that divides `length`."""
  sizes = range(step, min(length, most) + 1, step)
  return max(size for size in sizes if length % size == 0)

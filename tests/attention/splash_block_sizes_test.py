"""Blocks pad little, divide what they pad to, and come from the table."""

import pytest

from ccl_jax.attention import splash_block_sizes


@pytest.mark.parametrize(
  "length, padded",
  [(1, 128), (155, 256), (256, 256), (7040, 7168), (27_280, 27_648)],
)
def test_lengths_are_padded_by_an_eighth_or_to_128(length, padded):
  assert splash_block_sizes.padded(length) == padded


@pytest.mark.parametrize("kind", ["TPU v5p", "TPU v6 lite", "TPU v4", "cpu"])
@pytest.mark.parametrize("n, m", [(27_280, 27_280), (7040, 28_160), (155, 512)])
def test_blocks_divide_the_padded_lengths(kind, n, m):
  sizes = splash_block_sizes.choose(n, m, kind)
  for size in filter(None, sizes):
    assert splash_block_sizes.padded(n) % size.q == 0 and size.q % 128 == 0
    assert splash_block_sizes.padded(m) % size.kv == 0
    assert size.kv % size.compute == 0 and size.compute % 128 == 0


def test_the_table_is_read_by_chip_and_length():
  long = splash_block_sizes.choose(27_280, 27_280, "TPU v5p").forward
  assert long == (1024, 1024, 1024)
  assert splash_block_sizes.choose(27_280, 512, "TPU v5p").forward == (
    512,
    512,
    512,
  )
  assert splash_block_sizes.choose(27_280, 27_280, "TPU v4").forward == (
    512,
    512,
    512,
  )


def test_a_head_and_its_blocks_fit_into_vmem():
  fits = lambda n, kind, e=128: (  # noqa: E731
    splash_block_sizes.choose(n, n, kind, e).fused is not None
  )
  assert fits(75_776, "TPU v5p") and not fits(75_776, "TPU v5p", e=192)
  assert fits(75_776, "TPU v6 lite", e=192)
  assert not fits(27_648, "TPU v4") and fits(27_648, "TPU v5 lite")
  assert fits(1024, "an unknown one") and not fits(27_648, "an unknown one")

"""Windows cover a sequence once, and have few lengths."""

import numpy as np
import pytest

from ccl_jax.codecs import chunking


@pytest.mark.parametrize("length", [1, 63, 64, 65, 200, 512, 513, 1025, 5000])
def test_pieces_cover_all_once(length):
  window, overlap = 64, 10
  decided, last = [], 0
  for start, stop, first, end in chunking.split_windows(
    length, window, overlap
  ):
    assert stop - start <= window and first == last
    assert first - start >= overlap or start == 0
    assert stop - end >= overlap or stop == length
    decided.append(end - first)
    last = end
  assert last == length and min(decided) > 0


def test_pieces_at_half_the_rate():
  x = np.arange(2 * 333.0, dtype=np.float32).reshape(1, -1, 2)
  half = chunking.map_windows(
    lambda x, num: x[:, ::2], x, window=64, overlap=10, down=2
  )
  np.testing.assert_array_equal(half, x[:, ::2][:, : 333 // 2])


def test_windows_that_only_overlap_are_an_error():
  with pytest.raises(ValueError, match="more than two overlaps"):
    chunking.map_windows(lambda x, num: x, np.zeros((1, 9, 1), "f"), 8, 4)


def test_lengths_are_few():
  lengths = {chunking.padded_length(n) for n in range(1, 4097)}
  assert len(lengths) == 15
  assert all(chunking.padded_length(n) >= n for n in lengths)


def test_all_lengths_run_windows_of_one_length():
  """Nothing new is compiled for a sequence of another length."""
  shapes = set()

  def run(x, num):
    shapes.add(x.shape)
    return x

  for length in (190, 150, 64, 40, 3):
    x = np.arange(length, dtype=np.float32).reshape(1, -1, 1)
    y = chunking.map_windows(run, x, window=64, overlap=10)
    np.testing.assert_array_equal(y, x)
  assert shapes == {(1, 64, 1)}

"""Long sequences in windows of few lengths, so that few programs are compiled.

A sequence that is shorter than a window is padded to the next of a few lengths.
A longer one is split into windows that share `overlap` steps at each end:

  window k    steps [k core, k core + window),  core = window - 2 overlap  (1)

Only the middle of each window is kept, and in the first and the last window
also the part up to the end of the sequence. If no result depends on steps
further than `overlap` away, the concatenation equals one pass.
"""

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float

Run = Callable[[np.ndarray, int], np.ndarray]


def map_windows(
  run: Run,
  x: Float[np.ndarray, "b t c"],
  window: int,
  overlap: int,
  up: int = 1,
  down: int = 1,
) -> Float[np.ndarray, "b r *d"]:
  """Returns `run` of every window, concatenated to r = t up // down steps.

  Args:
    run: (x (b, length, c), num) -> (b, length up // down, ...), where the first
      num steps of x determine the first num up // down results.
    window, overlap: in steps, multiples of `down`.

  Raises:
    ValueError: windows that are no longer than their overlaps.
  """
  if window <= 2 * overlap or window % down or overlap % down:
    raise ValueError(
      f"{window=}, {overlap=}: expected more than two overlaps, both multiples"
      f" of {down}."
    )
  parts = []
  for start, stop, first, last in split_windows(x.shape[1], window, overlap):
    length = min(padded_length(stop - start), window)
    padding = ((0, 0), (0, length - (stop - start)), (0, 0))
    y = run(np.pad(x[:, start:stop], padding), stop - start)
    low, high = (n * up // down for n in (first - start, last - start))
    parts.append(np.asarray(y)[:, low:high])
  return np.concatenate(parts, axis=1)


def split_windows(
  length: int, window: int, overlap: int
) -> Iterator[tuple[int, int, int, int]]:
  """Yields (start, stop) of each window (1) and (first, last) of its results.

  The ranges of results follow each other without gaps.
  """
  core = window - 2 * overlap
  starts = range(0, max(length - 2 * overlap, 1), core)
  for start in [0] if length <= window else starts:
    stop = min(start + window, length)
    first = start + overlap if start else 0
    last = stop if stop == length else stop - overlap
    yield start, stop, first, last


def padded_length(length: int) -> int:
  """Returns the next multiple of 64; beyond 512, of 512."""
  step = 64 if length <= 512 else 512
  return length + -length % step

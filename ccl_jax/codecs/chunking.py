"""Long sequences in pieces of a few lengths, so that little is compiled.

What is shorter than a window is filled up to the next of a few lengths. What is
longer is cut to windows that share `overlap` steps at each end:

  window k    steps [k core, k core + window),  core = window - 2 overlap  (1)

of which the middle is kept, and of the first and last one all to the end. Where
no result depends on steps further than `overlap` away, the pieces together are
the whole.
"""

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float

Run = Callable[[np.ndarray, int], np.ndarray]


def in_windows(
  run: Run,
  x: Float[np.ndarray, "b t c"],
  window: int,
  overlap: int,
  up: int = 1,
  down: int = 1,
) -> Float[np.ndarray, "b r d"]:
  """`run` on pieces of x, put together: r = t up // down.

  Args:
    run: (piece (b, length, c), num) -> (b, length up // down, d), of which the
      first num steps of the piece decide num up // down results.
    window, overlap: in steps, multiples of `down`.

  Raises:
    ValueError: windows that only overlap.
  """
  if window <= 2 * overlap or window % down or overlap % down:
    raise ValueError(
      f"{window=}, {overlap=}: expected more than two overlaps, both multiples"
      f" of {down}."
    )
  parts = []
  for start, stop, first, last in pieces(x.shape[1], window, overlap):
    length = min(padded(stop - start), window)
    piece = x[:, start:stop]
    piece = np.pad(piece, ((0, 0), (0, length - (stop - start)), (0, 0)))
    y = run(piece, stop - start)
    low, high = (n * up // down for n in (first - start, last - start))
    parts.append(np.asarray(y)[:, low:high])
  return np.concatenate(parts, axis=1)


def pieces(
  length: int, window: int, overlap: int
) -> Iterator[tuple[int, int, int, int]]:
  """(start, stop) of each window (1) and (first, last) of what it decides."""
  core = window - 2 * overlap
  starts = range(0, max(length - 2 * overlap, 1), core)
  for start in [0] if length <= window else starts:
    stop = min(start + window, length)
    first = start + overlap if start else 0
    last = stop if stop == length else stop - overlap
    yield start, stop, first, last


def padded(length: int) -> int:
  """The next multiple of 64; beyond 512, of 512."""
  step = 64 if length <= 512 else 512
  return length + -length % step

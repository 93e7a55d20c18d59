"""Pieces of sound, each with a time stamp, joined on one clock.

Time stamps are not exact: containers round them, recorders stamp packets when
they arrive, and the clock of a sound card runs faster or slower than that of
the pictures. Jitter is ignored; a slow drift stretches the sound, as FFmpeg's
`aresample=async=1000` does; a gap that is real becomes silence.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float

# A gap is real if it is longer than this many seconds (FFmpeg's threshold too),
# or if it divides stamps that are all earlier by more than `_MIN_GAP` from
# those that are all later, for `_WINDOW` each.
MAX_JITTER = 0.1
_MIN_GAP = 0.02
_WINDOW = 0.5
# The sound is stretched where the mean of the stamps in `_WINDOW` to each side
# is more than this many seconds away; at most by this share.
_MAX_OFFSET = 0.01
_MAX_STRETCH = 0.1


def join(
  pieces: Sequence[tuple[float, Float[np.ndarray, " _"]]],
  start: float,
  length: int,
  rate: int,
) -> Float[np.ndarray, " length"]:
  """Returns `length` samples from the time `start` on.

  A sample with time stamp t lands at index (t - start) * rate; where there is
  no sample there is silence.

  Args:
    pieces: each the time of its first sample and its samples.
  """
  result = np.zeros(length, np.float32)
  samples = [piece for _, piece in pieces]
  counts = np.cumsum([0, *map(len, samples)])
  times = np.array([time for time, _ in pieces])
  offsets = np.round((times - start) * rate) - counts[:-1]
  gaps = _find_gaps(counts[:-1], offsets, rate)
  for first, stop in zip(gaps, [*gaps[1:], len(pieces)], strict=True):
    for run, late in _follow(slice(first, stop), counts, offsets, rate):
      where = counts[run.start : run.stop + 1] - counts[run.start]
      # A piece ends as late as it began.
      late = np.append(late, late[-1]) + counts[run.start]
      _put(result, np.concatenate(samples[run]), where, late)
  return result


def _find_gaps(begins: np.ndarray, offsets: np.ndarray, rate: int) -> list[int]:
  """Returns the first piece, and each that comes after a gap.

  Args:
    begins: number of samples before each piece.
    offsets: how many samples late each is by its own stamp.
  """
  before = np.searchsorted(begins, begins - _WINDOW * rate)
  after = np.searchsorted(begins, begins + _WINDOW * rate)
  steps = np.abs(np.diff(offsets))
  result = [0]
  for i in 1 + np.flatnonzero(steps > _MIN_GAP * rate):
    is_gap = steps[i - 1] > MAX_JITTER * rate
    if not is_gap and after[i] < len(begins):
      old = offsets[max(before[i], result[-1]) : i]
      new = offsets[i : after[i]]
      apart = max(new.min() - old.max(), old.min() - new.max())
      is_gap = apart > _MIN_GAP * rate
    if is_gap:
      result.append(int(i))
  return result


def _moving_mean(begins: np.ndarray, offsets: np.ndarray, window: float):
  """Returns the mean of the offsets in a window to each side."""
  first = np.searchsorted(begins, begins - window)
  stop = np.searchsorted(begins, begins + window, side="right")
  sums = np.cumsum([0, *offsets])
  return (sums[stop] - sums[first]) / (stop - first)


def _follow(
  part: slice, counts: np.ndarray, offsets: np.ndarray, rate: int
) -> Iterator[tuple[slice, np.ndarray]]:
  """Yields runs of pieces without a gap, and how late each of these is put.

  Within `_MAX_OFFSET` of the mean nothing moves. Where that moves faster than
  sound may be stretched, a run ends.
  """
  begins, late, first, run = counts[part], offsets[part.start], part.start, []
  means = _moving_mean(begins, offsets[part], _WINDOW * rate)
  most = _MAX_STRETCH * np.diff(counts[part.start : part.stop + 1])
  for i, mean in enumerate(means):
    near = np.clip(late, mean - _MAX_OFFSET * rate, mean + _MAX_OFFSET * rate)
    if run and abs(mean - late) <= MAX_JITTER * rate:
      late += np.clip(near - late, -most[i - 1], most[i - 1])
    else:
      if run:
        yield slice(first, part.start + i), np.array(run)
      first, late, run = part.start + i, np.round(near), []
    run.append(late)
  yield slice(first, part.stop), np.array(run)


def _put(
  result: np.ndarray, samples: np.ndarray, where: np.ndarray, late: np.ndarray
) -> None:
  """Writes samples; those at `where` go to the indices `where + late`."""
  index = where + late
  begin, end = np.ceil(index[[0, -1]]).astype(int)
  first, stop = np.clip((begin, end), 0, len(result))
  if (late == late[0]).all():
    result[first:stop] = samples[first - begin : stop - begin]
    return
  at = np.interp(np.arange(first, stop), index, where)
  # Few files drift, and each process that decodes would pay for the import.
  import scipy.ndimage

  result[first:stop] = scipy.ndimage.map_coordinates(
    samples.astype(float), at[None], order=5, mode="nearest"
  )

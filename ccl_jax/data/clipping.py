"""Sound that was cut off at the largest value that its file can hold.

Counted on the samples of the file, as resampling bends what was flat.
"""

import contextlib
import math
from collections.abc import Iterator

import av
import numpy as np
from jaxtyping import Bool, Float

from ccl_jax.data.opening import Path, find_stream, open_media

FULL = 0.98  # of the range, that clipped sound reaches at least
IN_ROW = 3  # a wave may have two equal samples at its top by chance
_EQUAL = 4e-5  # a step of 16 bits, as writers round up or down
_MAX_PLANES = 7  # PyAV crashes at frames of more


def clipped_share(
  path: Path, start: float = 0.0, seconds: float = math.inf
) -> float:
  """Returns the share of the samples of a file's sound that are cut off.

  These are three and more equal ones in a row at the sound's largest value, if
  that is above 0.98 of the range. Sound of more than seven channels that lie
  apart is not looked at: its share is 0.

  Raises:
    ClipError: unreadable, or without sound.
  """
  found, total, begin = [], 0, None
  for frame in _frames(path):
    time = frame.time or 0.0
    begin = time if begin is None else begin
    if time - begin >= start + seconds:
      break
    if time - begin >= start:
      samples = np.abs(_samples(frame)).clip(max=1)
      peak = float(samples.max(initial=0))
      is_cut = peak >= FULL
      count = _count_in_rows(samples >= peak - _EQUAL) if is_cut else 0
      found.append((peak, count))
      total += samples.size
  loudest = max((peak for peak, _ in found), default=0.0)
  cut = sum(count for peak, count in found if peak >= loudest - _EQUAL)
  return cut / max(total, 1)


def _frames(path: Path) -> Iterator[av.AudioFrame]:
  """Yields the frames of the sound that can be looked at."""
  with open_media(path) as container:
    for packet in container.demux(find_stream(container, "audio", True)):
      # Reading the clip itself has found, or forgiven, what is damaged.
      with contextlib.suppress(av.error.InvalidDataError):
        for frame in packet.decode():
          channels = frame.layout.nb_channels
          if not frame.format.is_planar or channels <= _MAX_PLANES:
            yield frame


def _count_in_rows(is_top: Bool[np.ndarray, "c s"]) -> int:
  """Returns the number of true values in rows of `IN_ROW` and more."""
  edges = np.diff(np.pad(is_top.astype(np.int8), ((0, 0), (1, 1))), axis=1)
  lengths = np.nonzero(edges < 0)[1] - np.nonzero(edges > 0)[1]
  return int(lengths[lengths >= IN_ROW].sum())


def _samples(frame: av.AudioFrame) -> Float[np.ndarray, "c s"]:
  """Returns the samples of each channel, those of whole numbers in [-1, 1]."""
  samples = frame.to_ndarray()
  if not frame.format.is_planar:
    samples = samples.reshape(-1, frame.layout.nb_channels).T
  if np.issubdtype(samples.dtype, np.floating):
    return samples
  info = np.iinfo(samples.dtype)
  middle = 0 if info.min else (info.max + 1) // 2
  # The largest positive number is as much of a limit as the negative one.
  return (samples.astype(np.float64) - middle) / (info.max - middle)

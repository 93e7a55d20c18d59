"""Faces of a clip: boxes by a plug-in, tracks and crops as for SyncNet.

A detector is a function that --faces=MODULE:FUNCTION names:

  def detect(video):    # (t, y, x, 3) RGB bytes at 25 fps
    return [[(x0, y0, x1, y1), ...], ...]   # pixels; the faces of each frame

Boxes of neighbouring frames belong to one face if their intersection over union
is more than half; a face that is lost for up to 25 frames is interpolated.
`whole_picture` is for clips that are crops of a face already.
"""

import importlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.signal
from jaxtyping import Float, UInt8

from ccl_jax.metrics.real.metric import NotRunError
from ccl_jax.metrics.real.syncnet import FACE_SIZE

MIN_TRACK = 50  # frames, as syncnet-python; the original has 100, MOVA 20
MIN_FACE = 40  # pixels
MAX_LOST = 25  # frames
_MIN_OVERLAP = 0.5
_CROP = 0.4  # of half of a face's size, that is added around it
_BORDER = 110
_MEDIAN = 13  # frames

Boxes = Sequence[Any]  # of each frame those of its faces
Detector = Callable[[UInt8[np.ndarray, "t y x 3"]], Boxes]


class FaceTrack(NamedTuple):
  """One face: consecutive frames, and its box (x0, y0, x1, y1) in each."""

  frames: np.ndarray
  boxes: np.ndarray


def open_detector(name: str) -> Detector:
  """Returns the function "module:function"; NotRunError if there is none."""
  if not name:
    raise NotRunError(
      "name a face detector: --faces=MODULE:FUNCTION, or, where pictures are"
      f" crops of a face, --faces={__name__}:whole_picture"
    )
  module, _, function = name.partition(":")
  try:
    found = getattr(importlib.import_module(module), function)
  except Exception as error:  # Plug-ins raise almost anything.
    raise NotRunError(
      f"--faces={name} cannot be imported ({error}): expected MODULE:FUNCTION"
    ) from error
  if not callable(found):
    raise NotRunError(f"--faces={name} is no function")
  return found


def whole_picture(video: UInt8[np.ndarray, "t y x 3"]) -> Boxes:
  """Returns a box in each frame whose crop is the centred square of it."""
  y, x = video.shape[1:3]
  half = min(y, x) / 2 / (1 + _CROP)
  # A crop reaches from -1 to 1 + 2 * 0.4 halves around the box's middle.
  middle = y / 2 - _CROP * half
  box = (x / 2 - half, middle - half, x / 2 + half, middle + half)
  return [[box]] * len(video)


def find_tracks(boxes: Boxes, size: tuple[int, int]) -> list[FaceTrack]:
  """Returns the faces that are seen for more than `MIN_TRACK` frames.

  Args:
    boxes: of each frame.
    size: (y, x) of the pictures.

  Raises:
    ValueError: boxes that are no four numbers, or outside of the pictures.
  """
  left = [[_check_box(box, size) for box in frame] for frame in boxes]
  tracks = []
  while found := _take_track(left):
    times = np.array([time for time, _ in found])
    seen = np.array([box for _, box in found])
    frames = np.arange(times[0], times[-1] + 1)
    full = np.stack([np.interp(frames, times, x) for x in seen.T], 1)
    extent = (full[:, 2:] - full[:, :2]).mean(0).max()
    if len(found) > MIN_TRACK and extent > MIN_FACE:
      tracks.append(FaceTrack(frames, full))
  return tracks


def _check_box(box: Any, size: tuple[int, int]) -> np.ndarray:
  box = np.asarray(box, np.float64)
  if box.shape == (4,) and np.isfinite(box).all():
    inside = np.minimum(box[2:], size[::-1]) - np.maximum(box[:2], 0)
    if (inside > 0).all():
      return box
  raise ValueError(
    f"the face detector found {box.tolist()}, expected (x0, y0, x1, y1) within"
    f" {size[1]}x{size[0]} pixels"
  )


def _take_track(left: list[list[np.ndarray]]) -> list[tuple[int, np.ndarray]]:
  """Removes the boxes of one face from `left`; returns them with their times.

  It is empty if there is no box left.
  """
  track: list[tuple[int, np.ndarray]] = []
  for time, boxes in enumerate(left):
    if track and time - track[-1][0] > MAX_LOST:
      break
    for i, box in enumerate(boxes):
      if not track or _overlap(box, track[-1][1]) > _MIN_OVERLAP:
        track.append((time, boxes.pop(i)))
        break
  return track


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
  """Returns intersection over union."""
  sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
  inside = np.prod(sides.clip(0))
  return float(
    inside / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - inside)
  )


def crop_faces(
  video: UInt8[np.ndarray, "t y x 3"], track: FaceTrack
) -> UInt8[np.ndarray, "n y x 3"]:
  """Returns the smoothed crop of each frame of a track, `FACE_SIZE` wide."""
  low, high = track.boxes[:, :2], track.boxes[:, 2:]
  half = scipy.signal.medfilt((high - low).max(1) / 2, _MEDIAN)
  x, y = (scipy.signal.medfilt(v, _MEDIAN) for v in ((low + high) / 2).T)
  rows = zip(track.frames, half, y, x, strict=True)
  return np.stack([_crop(video[time], *box) for time, *box in rows])


def _crop(
  frame: UInt8[np.ndarray, "y x 3"], half: float, y: float, x: float
) -> UInt8[np.ndarray, "y x 3"]:
  border = int(half * (1 + 2 * _CROP))
  padding = ((border, border), (border, border), (0, 0))
  frame = np.pad(frame, padding, constant_values=_BORDER)
  y, x = y + border, x + border
  rows = slice(int(y - half), int(y + half * (1 + 2 * _CROP)))
  columns = slice(int(x - half * (1 + _CROP)), int(x + half * (1 + _CROP)))
  return resize(frame[rows, columns], FACE_SIZE)


def resize(
  image: UInt8[np.ndarray, "y x 3"], size: int
) -> UInt8[np.ndarray, "size size 3"]:
  """Returns the image scaled bilinearly without antialiasing, as OpenCV's."""
  pixels: Float[np.ndarray, "y x 3"] = image.astype(np.float32)
  for axis in (0, 1):
    length = pixels.shape[axis]
    centres = (np.arange(size) + 0.5) * length / size - 0.5
    centres = centres.clip(0, length - 1)
    first = np.floor(centres).astype(int)
    second = np.minimum(first + 1, length - 1)
    weight = (centres - first).astype(np.float32)
    weight = weight[:, None, None] if axis == 0 else weight[:, None]
    a, b = (pixels.take(i, axis) for i in (first, second))
    pixels = a + weight * (b - a)
  return np.round(pixels).astype(np.uint8)

"""Cuts long clips into examples: windows of one length, each with its time.

A clip is a file, or a segment of it that captions name. Its windows begin every
`window_stride` seconds from its start, as long as entire windows fit. The name
of a window contains its time as in W3C's Media Fragments, a.mp4#t=5,9.84.
"""

import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tqdm import tqdm

from ccl_jax.data import media
from ccl_jax.data.clip import is_image
from ccl_jax.data.encode.clip_files import ClipFile
from ccl_jax.data.encode.settings import EncodeSettings

# Durations in headers are rounded, to milliseconds in some containers.
TOLERANCE = 2e-3


def cut_windows(
  clip_files: Sequence[ClipFile], settings: EncodeSettings
) -> list[ClipFile]:
  """Returns the windows of every clip, in order.

  A clip that is too short, or whose length is not known, is one window, which
  is left out later with its reason.
  """
  ends = [file.end for file in clip_files]
  if settings.windows != "first":
    with ThreadPoolExecutor(16) as pool:  # each waits for its disk
      found = pool.map(find_end, clip_files)
      number = len(clip_files)
      ends = list(tqdm(found, "reading lengths", number, unit=" clips"))
  return [
    window
    for file, end in zip(clip_files, ends, strict=True)
    for window in _cut(file, end, settings)
  ]


def find_starts(
  seconds: float, length: float, settings: EncodeSettings
) -> list[float]:
  """Returns the starts of windows of `length` s in a clip of `seconds`."""
  stride = settings.window_stride or length
  starts = []
  if seconds + TOLERANCE > length:
    num = int((seconds - length + TOLERANCE) / stride) + 1
    starts = [i * stride for i in range(num)]
  if starts and settings.window_rest:
    rest = seconds - starts[-1] - length
    if rest + TOLERANCE >= settings.window_rest:
      starts.append(seconds - length)
  if settings.windows == "all":
    return starts
  num = min(int(settings.windows), len(starts))
  return [starts[i * len(starts) // num] for i in range(num)]


def _cut(
  file: ClipFile, end: float | None, settings: EncodeSettings
) -> list[ClipFile]:
  """Returns the windows of a clip that ends at `end`."""
  length = (file.shape or settings.shape).seconds
  if file.problem or is_image(file.name):
    return [file]
  if file.end is not None and file.end - file.start + TOLERANCE < length:
    seconds = file.end - file.start
    problem = f"segment is too short: {seconds:.2f} s of {length:.2f} s needed"
    name = name_part(file.name, file.start, file.end)
    return [file._replace(name=name, problem=problem)]
  if settings.windows == "first":
    is_whole = not file.start and file.end is None
    end = None if is_whole else file.start + length
    return [file._replace(name=name_part(file.name, file.start, end))]
  starts = []
  if end is not None:
    starts = find_starts(end - file.start, length, settings)
  return [
    file._replace(name=name_part(file.name, start, start + length), start=start)
    for start in [file.start + x for x in starts or [0.0]]
  ]


def find_end(file: ClipFile) -> float | None:
  """Returns the time at which a clip ends; None if it is not known."""
  seconds = 0.0
  if file.extent is not None:
    seconds = file.extent.seconds
  elif not file.problem:
    # Without it the clip will be left out, with its reason.
    with contextlib.suppress(Exception):
      seconds = media.read_header(file.path).length
  return min((end for end in (file.end, seconds) if end), default=None)


def name_part(name: str, start: float, end: float | None) -> str:
  """Returns the name of a part of a file; just the file's if it is all of it.

  >>> name_part("a.mp4", 5.0, 9.84)
  'a.mp4#t=5,9.84'
  """
  if not start and end is None:
    return name
  times = [start] if end is None else [start, end]
  texts = (f"{x:.3f}".rstrip("0").rstrip(".") for x in times)
  return f"{name}#t={','.join(texts)}"

"""Runs all metrics on all clips of a folder."""

import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from ccl_jax.array_types import STREAMS
from ccl_jax.data import media
from ccl_jax.data.clip import without_suffix
from ccl_jax.data.clipping import clipped_share
from ccl_jax.data.encode.captions import list_clips
from ccl_jax.data.encode.clip_files import ClipFile
from ccl_jax.data.encode.decode_pool import read_or_error
from ccl_jax.data.encode.left_out import no_usable_clip
from ccl_jax.data.encode.windows import name_part
from ccl_jax.metrics.real.metric import (
  FPS,
  SAMPLE_RATE,
  MeasuredClip,
  NotMeasuredError,
  Scorer,
  file_hash,
)
from ccl_jax.metrics.real.registry import METRICS
from ccl_jax.metrics.real.rows import FAILED, Features, Row, RowFile
from ccl_jax.storage.files import local_copy

_WHY = {"video": "without pictures", "audio": "without sound"}


class MeasuredFolder(NamedTuple):
  """Rows of a folder's clips; name -> reason for those that are left out."""

  rows: list[Row]
  left_out: dict[str, str]


def measure_folder(
  folder: str,
  rows: RowFile,
  features: Features,
  scorers: Mapping[str, Scorer],
  *,
  captions: str | None = None,
  max_seconds: float = 60.0,
  title: str = "measuring",
  start: Callable[[], None] = lambda: None,
) -> MeasuredFolder:
  """Measures every clip of a folder by the metrics that it lacks.

  Args:
    rows, features: where scores are, and go.
    captions: a file; None uses those of the folder, as encoding does.
    max_seconds: a longer clip is left out, as all of it is in memory.
    start: is called before the first clip.

  Raises:
    ValueError: no clips, captions that cannot be read, or no usable clip.
  """
  listed = list_clips(folder, captions).clips
  left_out = _find_sounds(listed)
  clips = [
    x._replace(name=name_part(x.name, x.start, x.end))  # a segment's has times
    for x in listed
    if x.name not in left_out
  ]
  start()
  for file in tqdm(clips, title, unit=" clips"):
    try:
      _measure_file(file, rows, features, scorers, max_seconds)
    except media.ClipError as error:
      left_out[file.name] = str(error).removeprefix(f"{file.path}: ")
  names = [file.name for file in clips if file.name not in left_out]
  if not names:
    raise no_usable_clip(left_out)
  return MeasuredFolder(rows.finish(names), left_out)


def _find_sounds(clips: Sequence[ClipFile]) -> dict[str, str]:
  """Returns name -> reason of each a.wav beside a film, such as a.mp4."""
  wavs = {without_suffix(x.name): x.name for x in clips if _is_wav(x)}
  beside = {x.name: x for x in clips if without_suffix(x.name) in wavs}
  return {
    wavs[without_suffix(name)]: f"taken for the sound of {name}"
    for name, file in beside.items()
    if not _is_wav(file) and _has_pictures(file)
  }


def _has_pictures(file: ClipFile) -> bool:
  """Returns whether a file has pictures; one that is damaged has none."""
  try:
    return not file.problem and media.read_header(file.path).size is not None
  except media.ClipError:
    return False


def _is_wav(file: ClipFile) -> bool:
  return file.name.lower().endswith(".wav")


def _measure_file(
  file: ClipFile,
  rows: RowFile,
  features: Features,
  scorers: Mapping[str, Scorer],
  max_seconds: float,
) -> None:
  """Adds the row of a clip; ClipError if it cannot be read, or is too long."""
  if file.problem:
    raise media.ClipError(file.problem)
  with local_copy(file.path) as path:
    # Features lie by it: those of the segments of a file are apart.
    sha256 = name_part(file_hash(pathlib.Path(path)), file.start, file.end)
    row = rows.reuse(file.name, sha256, file.caption)
    todo = [x for x in scorers if not _is_done(x, row, features)]
    if not todo:
      rows.rows[file.name] = row
      return
    clip = _read(file._replace(path=path), max_seconds)
  if clip.video is None:
    row |= {"seconds": len(clip.audio) / SAMPLE_RATE, "size": None}
  else:
    size = list(clip.video.shape[1:3])
    row |= {"seconds": len(clip.video) / FPS, "size": size}
  for name in todo:
    _measure(name, scorers[name], clip, row, features)
  rows.add(row)


def _is_done(metric: str, row: Row, features: Features) -> bool:
  if METRICS[metric].compare and metric in row["scores"]:
    return features.has(metric, row["sha256"])
  return metric in row["scores"] or metric in row["not_measured"]


def _read(file: ClipFile, max_seconds: float) -> MeasuredClip:
  _check_length(file, max_seconds)
  frames = file.end and round((file.end - file.start) * FPS)
  read = read_or_error(
    file, need_caption=False, need_video=False, need_audio=False,
    fps=FPS, sample_rate=SAMPLE_RATE, frames=frames,
  )  # fmt: skip
  if isinstance(read, media.ClipError):
    raise read
  seconds = file.end - file.start if file.end else math.inf
  clipped = 0.0
  if read.audio is not None:
    clipped = clipped_share(file.path, file.start, seconds)
  return MeasuredClip(file.name, file.caption, *read, clipped)


def _check_length(file: ClipFile, max_seconds: float) -> None:
  """Raises ClipError if a clip is shorter than a frame, or too long."""
  length = media.declared_duration(file.path)  # 0 if it is not known
  if length and file.start >= length:
    raise media.ClipError(
      f"segment begins at {file.start:.2f} s, the file ends at {length:.2f} s"
    )
  seconds = (file.end or length) - file.start
  if file.end and round(seconds * FPS) < 1:
    raise media.ClipError(
      f"segment is too short: {seconds:.2f} s of {1 / FPS:.2f} s needed"
    )
  if seconds > max_seconds:
    raise media.ClipError(
      f"is {seconds:.0f} s long, expected at most {max_seconds:.0f}: cut it, or"
      " raise --max_seconds"
    )


def _measure(
  name: str, scorer: Scorer, clip: MeasuredClip, row: Row, features: Features
) -> None:
  """Adds the scores of a metric to the row, or why there are none."""
  needs = METRICS[name].needs
  missing = [x for x in STREAMS if x in needs and getattr(clip, x) is None]
  row["not_measured"].pop(name, None)
  row["scores"].pop(name, None)
  try:
    if missing:
      raise NotMeasuredError(_WHY[missing[0]])
    scores = scorer.measure(clip)
    array = scores.pop("features", None)
    for key, value in scores.items():
      if isinstance(value, float) and not np.isfinite(value):
        raise NotMeasuredError(f"{key} is {value}")
    if array is not None:
      features.save(name, row["sha256"], array)
    row["scores"][name] = scores
  except NotMeasuredError as error:
    row["not_measured"][name] = str(error)
  except Exception as error:  # One metric, one clip: the others go on.
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    row["not_measured"][name] = FAILED + reason[:300]

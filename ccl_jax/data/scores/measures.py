"""Cheap scores of one clip, by a decoder, histograms and filters.

    error               why it cannot be decoded; then there are no other scores
    seconds width height has_video has_audio
    black static blurred    shares of the frames (see below), 0 to 1
    cuts                hard cuts
    brightness sharpness    medians: grey level; variance of the Laplacian
    silent clipped      shares of the sound's time and samples, 0 to 1
    rms_db lufs         level; loudness of BS.1770, if pyloudnorm is installed
    picture_hash sound_hash     see `duplicates`

A score of a stream that a clip lacks is null. Frames are taken 10 times a
second, as 256 x 256 pixels with grey levels of 0 to 255. A frame is black below
10 on average, static if it differs by less than 0.1 from the one before, and
blurred if its Laplacian's variance is below 20. Sound is silent where 50 ms
have an RMS below -60 dB; `data.clipping` says what is clipped in the file. A
still image has one frame, so it is not static, and 0 seconds.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.ndimage
from jaxtyping import Float, UInt8

from ccl_jax.array_types import STREAMS
from ccl_jax.data import media
from ccl_jax.data.clip import is_image
from ccl_jax.data.clipping import clipped_share
from ccl_jax.data.encode.clip_files import ClipFile
from ccl_jax.data.scores import duplicates

FPS, SIZE, RATE = 10.0, 256, 16_000
_BLACK, _STATIC, _BLURRED = 10.0, 0.1, 20.0
_CUT, _CUT_RATIO = 20.0, 3.0
_WINDOW, _SILENT = RATE // 20, 1e-3
NAMES = (
  "seconds", "width", "height", "has_video", "has_audio", "black", "static",
  "blurred", "cuts", "brightness", "sharpness", "silent", "clipped", "rms_db",
  "lufs", "picture_hash", "sound_hash",
)  # fmt: skip
Scores = dict[str, Any]


def score_file(file: ClipFile, *, max_seconds: float) -> Scores:
  """Returns the scores of a file; whatever is wrong with it is its "error".

  Args:
    max_seconds: that are looked at, from its start.
  """
  scores: Scores = {"error": None} | dict.fromkeys(NAMES)
  try:
    scores |= _score(file, max_seconds)
  # Whatever a decoder raises, also MemoryError, costs this clip only.
  except Exception as error:
    scores["error"] = str(error).removeprefix(f"{file.path}: ") or repr(error)
  return {
    k: round(x, 4) if isinstance(x, float) else x for k, x in scores.items()
  }


def _score(file: ClipFile, max_seconds: float) -> Scores:
  if file.problem:
    raise ValueError(file.problem)
  if is_image(file.name):
    return _score_image(file)
  header = media.read_header(file.path)
  if not header.seconds:
    raise ValueError("has neither pictures nor sound")
  scores = {f"has_{stream}": stream in header.seconds for stream in STREAMS}
  if "video" in header.seconds:  # Only a frame says how it is turned.
    first = media.read_clip(file.path, frames=1, streams=("video",)).video
    scores["height"], scores["width"] = first.shape[1:3]
  # One by one, as each may have a length of its own.
  for stream, seconds in header.seconds.items():
    is_long = seconds > max_seconds
    clip = media.read_clip(
      file.path, fps=FPS, size=(SIZE, SIZE), sample_rate=RATE,
      frames=round(max_seconds * FPS) if is_long else None, streams=[stream],
      need_video=False, need_audio=False,
    )  # fmt: skip
    if clip.video is not None:
      scores |= score_pictures(clip.video)
      scores.setdefault("seconds", seconds or len(clip.video) / FPS)
    else:
      scores |= score_sound(clip.audio)
      scores["clipped"] = clipped_share(file.path, seconds=max_seconds)
      scores.setdefault("seconds", seconds or len(clip.audio) / RATE)
  return scores


def _score_image(file: ClipFile) -> Scores:
  y, x, _ = media.read_image(file.path).shape
  seen = media.read_image(file.path, (SIZE, SIZE))
  scores = {"has_video": True, "has_audio": False, "width": x, "height": y}
  return scores | score_pictures(seen[None]) | {"seconds": 0.0}


def score_pictures(video: UInt8[np.ndarray, "t y x 3"]) -> Scores:
  """Returns the scores of frames."""
  grey = [frame.mean(-1, dtype=np.float32) for frame in video]
  means = np.array([frame.mean() for frame in grey])
  sharpness = np.array([scipy.ndimage.laplace(frame).var() for frame in grey])
  small = video.reshape(len(video), 64, SIZE // 64, 64, SIZE // 64, 3)
  small = small.mean((2, 4), dtype=np.float32)
  changes = np.abs(np.diff(small, axis=0)).mean((1, 2, 3))
  return {
    "black": float((means < _BLACK).mean()),
    "static": float((changes < _STATIC).mean()) if len(changes) else 0.0,
    "blurred": float((sharpness < _BLURRED).mean()),
    "cuts": count_cuts(changes),
    "brightness": float(np.median(means)),
    "sharpness": float(np.median(sharpness)),
    "picture_hash": duplicates.hash_pictures(small.mean(-1)),
  }


def count_cuts(changes: Float[np.ndarray, " t"]) -> int:
  """Counts changes of successive frames that tower above their neighbours."""
  padded = np.pad(changes, 2)
  around = np.stack([padded[i : i + len(changes)] for i in (0, 1, 3, 4)])
  is_cut = (changes > _CUT) & (changes > _CUT_RATIO * around.mean(0))
  return int(is_cut.sum())


def score_sound(audio: Float[np.ndarray, " s"]) -> Scores:
  """Returns the scores of samples at `RATE`."""
  power = np.square(audio, dtype=np.float64)
  whole = power[: len(power) // _WINDOW * _WINDOW].reshape(-1, _WINDOW)
  windows = (whole if len(whole) else power[None]).mean(1)
  mean = power.mean() if len(power) else 0.0
  return {
    "silent": float((windows < _SILENT**2).mean()),
    "rms_db": float(10 * np.log10(max(mean, 1e-12))),
    "lufs": _loudness(audio),
    "sound_hash": duplicates.hash_sound(audio),
  }


def _loudness(audio: Float[np.ndarray, " s"]) -> float | None:
  """Returns LUFS, at least -120; None without pyloudnorm."""
  try:
    import pyloudnorm
  except ImportError:
    return None
  # A block of BS.1770 is 0.4 s.
  audio = np.pad(audio, (0, max(round(0.4 * RATE) - len(audio), 0)))
  if not audio.any():
    return -120.0
  loudness = pyloudnorm.Meter(RATE).integrated_loudness(
    audio.astype(np.float64)
  )
  return float(max(loudness, -120.0))


def describe(scores: Mapping[str, Scores]) -> str:
  """Returns a line with a histogram for every score that is a number."""
  lines = []
  for name in NAMES:
    values = [row.get(name) for row in scores.values()]
    values = np.array([x for x in values if isinstance(x, (int, float))], float)
    if len(values):
      counts, _ = np.histogram(values, 16)
      bars = "".join(" ▁▂▃▄▅▆▇█"[-(-8 * n // max(counts))] for n in counts)
      low, middle, high = np.quantile(values, (0, 0.5, 1))
      lines.append(
        f"{name:11} {low:9.3g} |{bars}| {high:9.3g}  median {middle:.3g}"
      )
  return "\n".join(lines)

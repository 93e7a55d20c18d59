"""Checks of sound and pictures that need nothing but numpy.

Sound: level is the RMS of all samples; silence is the share of windows of 20 ms
below -60 dBFS; `data.clipping` says what is clipped in the file. Pictures, at
64 pixels: a frame is black if its mean is below 16 of 255 and 99 % of its
pixels are below 32; a step between frames is static if pixels change by less
than 0.1 of 255 on average.
"""

import numpy as np
from jaxtyping import Float, Num, UInt8

from ccl_jax.data.clipping import FULL, IN_ROW
from ccl_jax.metrics.real.metric import (
  SAMPLE_RATE,
  Column,
  MeasuredClip,
  Metric,
  Options,
  Scorer,
)

WINDOW = SAMPLE_RATE // 50
SILENCE_DB = -60.0
SIDE = 64
BLACK, STATIC = 16, 0.1
_FLOOR = 1e-10


def measure_sound(audio: Float[np.ndarray, " s"]) -> dict[str, float]:
  """Returns level_db and silent_share of a wave."""
  audio = audio.astype(np.float64)
  num = max(len(audio) // WINDOW, 1)
  windows = np.array_split(audio, num)
  power = np.array([np.mean(w**2) for w in windows])
  return {
    "level_db": _decibel(np.mean(audio**2)),
    "silent_share": float(np.mean(power < 10 ** (SILENCE_DB / 10))),
  }


def measure_pictures(video: UInt8[np.ndarray, "t y x 3"]) -> dict[str, float]:
  """Returns black_share of the frames, static_share of the steps."""
  small = np.stack([_shrink(frame) for frame in video])
  dark = (small < 2 * BLACK).mean((1, 2)) >= 0.99
  is_black = (small.mean((1, 2)) < BLACK) & dark
  steps = np.abs(np.diff(small, axis=0)).mean((1, 2))
  return {
    "black_share": float(is_black.mean()),
    "static_share": float((steps < STATIC).mean()) if len(steps) else 1.0,
  }


def _decibel(power: float) -> float:
  return float(10 * np.log10(max(power, _FLOOR)))


def _shrink(frame: UInt8[np.ndarray, "y x 3"]) -> Num[np.ndarray, "_ _"]:
  """Returns the mean over blocks, at most `SIDE` of them on a side."""
  grey = frame.astype(np.float32).mean(-1)
  for axis in (0, 1):
    length = grey.shape[axis]
    starts = np.arange(min(SIDE, length)) * length // min(SIDE, length)
    counts = np.diff(np.append(starts, length))
    grey = np.add.reduceat(grey, starts, axis)
    grey = grey / (counts[:, None] if axis == 0 else counts)
  return grey


def _open_sound(_: Options) -> Scorer:
  def measure(clip: MeasuredClip) -> dict[str, float]:
    return measure_sound(clip.audio) | {"clipped_share": clip.clipped}

  return Scorer(
    measure,
    {
      "window_seconds": WINDOW / SAMPLE_RATE,
      "silence_dbfs": SILENCE_DB,
      "clipped": {"rate": "the file's", "in_row": IN_ROW, "full": FULL},
    },
  )


def _open_pictures(_: Options) -> Scorer:
  def measure(clip: MeasuredClip) -> dict[str, float]:
    return measure_pictures(clip.video)

  return Scorer(measure, {"side": SIDE, "black": BLACK, "static": STATIC})


SOUND = Metric(
  needs=("audio",),
  columns={
    "level_db": Column("dBFS"),
    "silent_share": Column("", "lower"),
    "clipped_share": Column("", "lower"),
  },
  open=_open_sound,
)
PICTURES = Metric(
  needs=("video",),
  columns={
    "black_share": Column("", "lower"),
    "static_share": Column("", "lower"),
  },
  open=_open_pictures,
)

"""Sync-C, Sync-D and offset of a talking face, by SyncNet.

With v_i and a_i the vectors of the face and the voice from frame i on, and a =
0 beyond the ends,

  d_k = mean_i |v_i - a_(i+k) + 1e-6|      k = -15 ... 15 frames
  Sync-D = min d     Sync-C = median d - min d     offset = -argmin d

so a voice that is s frames late has the offset -s. Pictures are at 25 fps; MFCC
are those of python_speech_features with its defaults, of 16-bit samples. The
score of a clip is that of the face with the highest Sync-C; a clip without a
face is not measured.
"""

import functools
from typing import Any, NamedTuple

import numpy as np
import scipy.fft
from jaxtyping import Float

from ccl_jax.metrics.real import syncnet
from ccl_jax.metrics.real.faces import (
  MIN_TRACK,
  FaceTrack,
  crop_faces,
  find_tracks,
  open_detector,
)
from ccl_jax.metrics.real.metric import (
  FPS,
  SAMPLE_RATE,
  Column,
  MeasuredClip,
  Metric,
  NotMeasuredError,
  Options,
  Scorer,
  file_hash,
)

MAX_SHIFT = 15
_SAMPLES = round(SAMPLE_RATE / FPS)  # of a frame
_FRAME, _STEP, _FFT, _FILTERS = 400, 160, 512, 26
_LIFTER, _PREEMPHASIS = 22, 0.97


class SyncScore(NamedTuple):
  """Confidence, distance, and the frames by which the voice is early."""

  confidence: float
  distance: float
  offset: int


def score_distances(distances: Float[np.ndarray, " k"]) -> SyncScore:
  """Returns the scores of d_k for k = -15 ... 15."""
  best = int(np.argmin(distances))
  low = float(distances[best])
  return SyncScore(
    float(np.median(distances)) - low, low, len(distances) // 2 - best
  )


def mean_distances(
  face: Float[np.ndarray, "n d"], voice: Float[np.ndarray, "n d"]
) -> Float[np.ndarray, " k"]:
  """Returns d_k for k = -15 ... 15."""
  padded = np.pad(voice, ((MAX_SHIFT, MAX_SHIFT), (0, 0)))
  return np.array([
    np.linalg.norm(face - padded[k : k + len(face)] + 1e-6, axis=1).mean()
    for k in range(2 * MAX_SHIFT + 1)
  ])  # fmt: skip


def mfcc(audio: Float[np.ndarray, " s"]) -> Float[np.ndarray, "m 13"]:
  """Returns 100 frames a second of samples in [-1, 1]."""
  samples = np.round(audio * 32768.0).clip(-32768, 32767)
  signal = np.append(samples[:1], samples[1:] - _PREEMPHASIS * samples[:-1])
  num = 1 + max(0, -(-(len(signal) - _FRAME) // _STEP))
  signal = np.pad(signal, (0, max(0, (num - 1) * _STEP + _FRAME - len(signal))))
  starts = _STEP * np.arange(num)[:, None] + np.arange(_FRAME)
  power = np.abs(np.fft.rfft(signal[starts], _FFT)) ** 2 / _FFT
  tiny = np.finfo(float).eps
  energy, bands = power.sum(1), power @ _filters().T
  logs = np.log(np.where(bands == 0, tiny, bands))
  found = scipy.fft.dct(logs, type=2, axis=1, norm="ortho")
  found = found[:, : syncnet.NUM_MFCC]
  n = np.arange(syncnet.NUM_MFCC)
  found = found * (1 + _LIFTER / 2 * np.sin(np.pi * n / _LIFTER))
  found[:, 0] = np.log(np.where(energy == 0, tiny, energy))
  return found


@functools.cache
def _filters() -> Float[np.ndarray, "filters bins"]:
  """Returns triangles between points that are equally far apart in mel."""
  top = 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700)
  hertz = 700 * (10 ** (np.linspace(0, top, _FILTERS + 2) / 2595) - 1)
  points = np.floor((_FFT + 1) * hertz / SAMPLE_RATE)
  bins = np.arange(_FFT // 2 + 1)
  left, middle, right = (points[i : i + _FILTERS, None] for i in range(3))
  rising = (bins - left) / np.maximum(middle - left, 1)
  falling = (right - bins) / np.maximum(right - middle, 1)
  is_rising = (bins >= left) & (bins < middle)
  is_falling = (bins >= middle) & (bins < right)
  return np.where(is_rising, rising, np.where(is_falling, falling, 0.0))


def score_track(
  params: syncnet.Params, clip: MeasuredClip, track: FaceTrack
) -> SyncScore:
  """Returns the scores of one face with the sound of its frames.

  Raises:
    NotMeasuredError: too little sound below the face.
  """
  first, last = track.frames[0], track.frames[-1] + 1
  audio = clip.audio[first * _SAMPLES : last * _SAMPLES]
  num = min(last - first, len(audio) // _SAMPLES) - syncnet.FACE_WINDOW
  if num < 1:
    raise NotMeasuredError("a face without sound")
  # The last window of faces is not used, as in the original.
  faces = crop_faces(clip.video, track)[: num + syncnet.FACE_WINDOW - 1]
  face = syncnet.embed_faces(params, faces[..., ::-1].astype(np.float32))
  voice = syncnet.embed_voice(params, mfcc(audio), num)
  return score_distances(mean_distances(face, voice))


def _open(options: Options) -> Scorer:
  path = options.find(syncnet.FILE)
  detect = open_detector(options.faces)
  params = syncnet.load(path)

  def measure(clip: MeasuredClip) -> dict[str, Any]:
    if not np.any(clip.audio):
      raise NotMeasuredError("silent")
    boxes = detect(clip.video)
    if len(boxes) != len(clip.video):
      raise ValueError(
        f"the face detector returned {len(boxes)} lists of boxes for"
        f" {len(clip.video)} frames"
      )
    tracks = find_tracks(boxes, clip.video.shape[1:3])
    if not tracks:
      raise NotMeasuredError(f"without a face for {MIN_TRACK} frames")
    best = max(score_track(params, clip, track) for track in tracks)
    return {**best._asdict(), "abs_offset": abs(best.offset)}

  return Scorer(
    measure,
    {
      "weights": path.name, "sha256": file_hash(path), "faces": options.faces,
      "fps": FPS, "min_track": MIN_TRACK, "max_shift": MAX_SHIFT,
      "face_of_clip": "highest confidence",
      "crop": "SyncNet's: scale 0.4, median of 13, border 110, bilinear to 224",
    },
  )  # fmt: skip


SYNC = Metric(
  needs=("video", "audio"),
  columns={
    "confidence": Column("Sync-C", "higher"),
    "distance": Column("Sync-D", "lower"),
    "offset": Column("frames"),
    "abs_offset": Column("frames", "lower"),
  },
  open=_open,
)

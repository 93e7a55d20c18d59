"""DeSync: the seconds by which sound is out of sync, by Synchformer.

As in av-benchmark: frames at 25 fps, the short side scaled to 224 (bicubic) and
the centre cut; segments of 16 frames every 8, and of 0.64 s of sound every
0.32 s; the most likely of 21 offsets from -2 to 2 s, for the first and for the
last 14 segments. DeSync is the mean of the two absolute offsets. A clip needs
14 segments, 4.8 s; a shorter one is not measured.
"""

import functools

import librosa
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from ccl_jax.convert.torch_files import open_torch_file
from ccl_jax.metrics.real import synchformer
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

MAX_OFFSET, NUM_CLASSES = 2.0, 21  # seconds
_STEP = synchformer.FRAMES // 2
_SAMPLES = round(synchformer.FRAMES / FPS * SAMPLE_RATE)
_MEAN, _DEVIATION = -4.2677393, 4.5689974


def offset_of(logits: Float[np.ndarray, " classes"]) -> float:
  """Returns the seconds of the most likely class."""
  grid = np.linspace(-MAX_OFFSET, MAX_OFFSET, NUM_CLASSES)
  return float(grid[int(np.argmax(logits))])


def log_mel(audio: Float[np.ndarray, " s"]) -> Float[np.ndarray, "t mel"]:
  """Returns the normalised log-mel of a segment, padded to 66 frames.

  The frame that is added is 0 before normalisation, as in the original.
  """
  mel = librosa.feature.melspectrogram(
    y=audio.astype(np.float32), sr=SAMPLE_RATE, n_fft=1024, win_length=400,
    hop_length=160, n_mels=synchformer.MELS, htk=True, norm=None,
    pad_mode="reflect",
  )  # fmt: skip
  logs = np.log(mel.T + 1e-6)
  logs = np.pad(logs, ((0, synchformer.MEL_FRAMES - len(logs)), (0, 0)))
  return ((logs - _MEAN) / (2 * _DEVIATION)).astype(np.float32)


def crop(frame: UInt8[np.ndarray, "y x 3"]) -> UInt8[np.ndarray, "size size 3"]:
  """Returns the centre of a frame whose short side is scaled to 224."""
  size = synchformer.SIZE
  y, x = frame.shape[:2]
  short = min(y, x)
  scaled = (int(size * x / short), int(size * y / short))
  image = Image.fromarray(frame).resize(scaled, Image.Resampling.BICUBIC)
  left, top = (round((n - size) / 2) for n in image.size)
  return np.asarray(image.crop((left, top, left + size, top + size)))


def num_segments(frames: int, samples: int) -> int:
  """Returns how many segments have both pictures and sound."""
  return min(
    (frames - synchformer.FRAMES) // _STEP,
    (samples - _SAMPLES) // (_SAMPLES // 2),
  ) + 1  # fmt: skip


def measure_clip(
  params: synchformer.Params, clip: MeasuredClip
) -> dict[str, float]:
  """Returns "desync", and the offsets of the "first" and "last" segments.

  Raises:
    NotMeasuredError: shorter than 14 segments.
  """
  num = num_segments(len(clip.video), len(clip.audio))
  if num < synchformer.SEGMENTS:
    raise NotMeasuredError("shorter than 4.8 s")
  ends = range(synchformer.SEGMENTS)
  chosen = sorted({*ends, *(num - 1 - i for i in ends)})
  video = np.stack([_pictures(clip.video, i) for i in chosen])
  step = _SAMPLES // 2
  sounds = (clip.audio[i * step : i * step + _SAMPLES] for i in chosen)
  v = synchformer.embed_video(params, video)
  a = synchformer.embed_audio(params, np.stack([log_mel(x) for x in sounds]))
  first, last = (
    offset_of(np.asarray(synchformer.classify(params, v[part], a[part])))
    for part in (slice(None, len(ends)), slice(-len(ends), None))
  )
  desync = (abs(first) + abs(last)) / 2
  return {"desync": desync, "first": first, "last": last}


def _pictures(
  video: UInt8[np.ndarray, "t y x 3"], segment: int
) -> Float[np.ndarray, "f h w 3"]:
  start = segment * _STEP
  frames = video[start : start + synchformer.FRAMES]
  pixels = np.stack([crop(frame) for frame in frames]).astype(np.float32)
  return pixels / 127.5 - 1


def _open(options: Options) -> Scorer:
  path = options.find(synchformer.FILE)
  params = synchformer.read(open_torch_file(path))
  return Scorer(
    functools.partial(measure_clip, params),
    {
      "weights": path.name, "sha256": file_hash(path), "fps": FPS,
      "crop": "short side 224, bicubic by Pillow, centre",
      "segments": "first and last 14 of 16 frames, step 8; mean of |offset|",
    },
  )  # fmt: skip


DESYNC = Metric(
  needs=("video", "audio"),
  columns={
    "desync": Column("s", "lower"),
    "first": Column("s"),
    "last": Column("s"),
  },
  open=_open,
)

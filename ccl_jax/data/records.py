"""Encoded clips on disk: ArrayRecord shards, as a data set that TFDS knows.

    ccl-SPLIT.array_record-00000 ...   the examples, see `data.shards`
    shards/                            what became of the clips of each
    codecs/                            what turns latents back into clips
    null_text.npy                      embedding of the empty prompt (l, d)
    dataset_info.json features.json    what TFDS needs
    metadata.json                      clip and latent shapes, counts

An example has `video` (f, h, w, c), `audio` (m', c) and `text` (l', d), all
float16 and not padded; `has_video` and `has_audio` (a stream that the clip
lacks is one row of zeros); `caption` and `name`. Codecs that say how sure they
are add `video_logvar` or `audio_logvar`: then latents are N(mean, exp(logvar)).
"""

import contextlib
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from etils import epath
from jaxtyping import Float

from ccl_jax.array_types import audio_per_frame
from ccl_jax.codecs.api import Codecs
from ccl_jax.data import shards, tf_example
from ccl_jax.data.shards import Example
from ccl_jax.files import replacing

_SHARD = 1024


def split_of(name: str, validation: float) -> str:
  """ "validation" for that share of all names, by hash, else "train"."""
  digest = hashlib.sha256(name.encode()).digest()
  share = int.from_bytes(digest[:8], "big") / 2**64
  return "validation" if share < validation else "train"


def latent_shapes(
  codecs: Codecs, fps: float, frames: int, size: tuple[int, int]
) -> dict[str, list[int]]:
  """What the model is given: video (f, h, w, c), audio (m, c), text (l, d)."""
  _, y, x = codecs.video.stride
  f = codecs.video.latent_frames(frames)
  m = f * audio_per_frame(fps, codecs.audio.rate)
  return {
    "video": [f, size[0] // y, size[1] // x, codecs.video.channels],
    "audio": [m, codecs.audio.channels],
    "text": [codecs.text.max_length, codecs.text.width],
  }


@contextlib.contextmanager
def writing(
  path: epath.PathLike,
  codecs: Codecs,
  *,
  fps: float,
  frames: int,
  size: tuple[int, int],
  logvar: Sequence[str] = (),
) -> Iterator["Writer"]:
  """A writer whose records become the directory `path` when the block ends.

  logvar: the streams whose examples have one.

  Raises:
    ValueError: latents that are not finite, of another shape, or far from mean
      0 and deviation 1; no examples. Then nothing is left on disk.
  """
  form = shards.RecordSchema(
    latent_shapes(codecs, fps, frames, size), tuple(logvar)
  )
  with replacing(path) as partial:
    partial.mkdir()
    writer = Writer(partial, form)
    try:
      yield writer
    finally:
      writer.close()
    codecs.save(partial / "codecs")
    finish(partial, form, codecs, fps=fps, frames=frames, size=size)


class Writer:
  """Adds examples to the shards of a directory; see `writing`."""

  def __init__(self, path: epath.PathLike, form: shards.RecordSchema):
    self._path, self._form = path, form
    self._open: dict[str, tuple[shards.Shard, contextlib.ExitStack]] = {}

  def add(self, example: Example) -> None:
    """Raises ValueError for latents that are not finite or do not fit."""
    split, index = example.split, 0
    if split in self._open:
      shard, stack = self._open[split]
      if shard.note.count == _SHARD:
        stack.close()
        index = shard.note.index + 1
    if split not in self._open or index:
      stack = contextlib.ExitStack()
      shard = stack.enter_context(
        shards.writing_shard(self._path, self._form, split, index)
      )
      self._open[split] = shard, stack
    self._open[split][0].add(example)

  def close(self) -> None:
    """Finishes the shards that are open."""
    for _, stack in self._open.values():
      stack.close()


def finish(
  folder: epath.PathLike,
  form: shards.RecordSchema,
  codecs: Codecs,
  *,
  fps: float,
  frames: int,
  size: tuple[int, int],
) -> None:
  """Makes a folder of finished shards a data set; metadata.json comes last.

  Raises:
    ValueError: no examples, or latents that are far from mean 0 and deviation 1
      over all shards.
  """
  folder, notes = epath.Path(folder), shards.read_notes(folder)
  statistics = shards.statistics(notes)
  counts = Counter()
  for note in notes:
    counts[note.split] += note.count
  counts = {split: count for split, count in counts.items() if count}
  shards.describe(folder, form, [n for n in notes if n.split in counts])
  null_text = pad(codecs.text.encode(""), codecs.text.max_length)
  with (
    replacing(folder / "null_text.npy") as partial,
    partial.open("wb") as file,
  ):
    np.save(file, null_text)
  metadata = {
    "fps": fps,
    "frames": frames,
    "size": list(size),
    "shapes": form.shapes,
    "logvar": list(form.logvar),
    "statistics": statistics,
    "counts": counts,
  }
  with replacing(folder / "metadata.json") as partial:
    partial.write_text(json.dumps(metadata, indent=2) + "\n")


def read_metadata(path: epath.PathLike) -> dict[str, Any]:
  """metadata.json; ValueError if `path` is not a directory of records."""
  file = epath.Path(path) / "metadata.json"
  if not file.exists():
    raise ValueError(
      f"'{os.fspath(path)}' holds no metadata.json: not encoded data. Make it"
      " with python -m ccl_jax.encode."
    )
  return json.loads(file.read_text())


class Split(Sequence):
  """Random access to the examples of one split.

  An example is a dict: `video`, `audio`, `text` and what there is of
  `video_logvar` and `audio_logvar` as they are stored (views, not copies), bool
  `has_video` and `has_audio`, strings `caption` and `name`.
  """

  def __init__(self, paths: list[str], channels: dict[str, int]):
    self._records, self._channels = ArrayRecordDataSource(paths), channels

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> dict[str, Any]:
    if not 0 <= index < len(self):
      raise IndexError(f"Example {index} of {len(self)}.")
    values = tf_example.parse(self._records[index])
    example: dict[str, Any] = {}
    for name, channels in self._channels.items():
      # TFDS writes the shape where more than one dimension is open.
      data = values[f"{name}/value" if f"{name}/value" in values else name]
      shape = values.get(f"{name}/shape", (-1, channels))
      example[name] = np.frombuffer(data, np.float16).reshape(shape)
    for name in ("has_video", "has_audio"):
      example[name] = bool(values[name][0])
    for name in ("caption", "name"):
      example[name] = bytes(values[name]).decode()
    return example


def open_split(path: epath.PathLike, split: str) -> Split:
  """The examples of a split.

  Raises:
    ValueError: no records at `path`, or no such split among them.
  """
  metadata = read_metadata(path)
  if split not in metadata["counts"]:
    counts = metadata["counts"]
    raise ValueError(
      f"No split '{split}' in {os.fspath(path)}; there are: {counts}."
    )
  files = epath.Path(path).glob(f"ccl-{split}.array_record-*")
  channels = {name: shape[-1] for name, shape in metadata["shapes"].items()}
  # Data sets of before there were any do not have the key.
  for stream in metadata.get("logvar", ()):
    channels[f"{stream}_logvar"] = channels[stream]
  return Split(sorted(os.fspath(p) for p in files), channels)


def pad(
  x: Float[np.ndarray, " l *rest"], length: int
) -> Float[np.ndarray, " n *rest"]:
  """The first `length` rows, with zeros after the last."""
  x = x[:length]
  return np.pad(x, ((0, length - len(x)), *((0, 0),) * (x.ndim - 1)))

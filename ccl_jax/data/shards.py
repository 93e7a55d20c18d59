"""Files of encoded clips, each written whole or not at all.

    ccl-SPLIT.array_record-00007   the examples, under TFDS's name for them
    shards/SPLIT-00007.json        what became of its clips, see `ShardManifest`

The note is written last: a shard that has one is finished.
"""

import contextlib
import dataclasses
import functools
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath
from jaxtyping import Float

from ccl_jax.array_types import STREAMS
from ccl_jax.data import tf_example
from ccl_jax.files import replacing

# Codecs give latents of mean 0 and deviation 1; beyond this something is wrong.
_LARGEST_MEAN, _DEVIATIONS = 1.0, (0.25, 4.0)


class Example(NamedTuple):
  """One encoded clip; a stream that it does not have is None.

  Latents are N(video, exp(video_logvar)) where the codec says how sure it is.
  """

  name: str
  split: str
  caption: str
  text: Float[np.ndarray, "l d"]
  video: Float[np.ndarray, "f h w c"] | None
  audio: Float[np.ndarray, "m c"] | None
  video_logvar: Float[np.ndarray, "f h w c"] | None = None
  audio_logvar: Float[np.ndarray, "m c"] | None = None


@dataclasses.dataclass(frozen=True)
class RecordSchema:
  """What the examples of a data set have in common.

  Attributes:
    shapes: of video (f, h, w, c), audio (m, c) and text (l, d) as a model takes
      them.
    logvar: the streams that keep one.
  """

  shapes: dict[str, list[int]]
  logvar: tuple[str, ...] = ()

  @functools.cached_property
  def features(self) -> tfds.features.FeaturesDict:
    """Of a record, as TFDS knows them."""

    def tensor(shape):
      # Raw bytes: a list of numbers is three times slower to read.
      shape = (*(None for _ in shape[1:]), shape[-1])
      return tfds.features.Tensor(
        shape=shape, dtype=np.float16, encoding="bytes"
      )

    names = {name: name for name in self.shapes}
    names |= {f"{s}_logvar": s for s in self.logvar}
    flags = {f"has_{s}": tfds.features.Scalar(np.bool_) for s in STREAMS}
    texts = {name: tfds.features.Text() for name in ("caption", "name")}
    return tfds.features.FeaturesDict(
      {n: tensor(self.shapes[s]) for n, s in names.items()} | flags | texts
    )

  def serialize(self, example: Example) -> bytes:
    """A record; ValueError for latents that are not finite or do not fit."""
    record: dict[str, Any] = {
      "name": example.name,
      "caption": example.caption,
      "text": _half(example.text, "text", example.name),
    }
    for stream in STREAMS:
      is_there = getattr(example, stream) is not None
      record[f"has_{stream}"] = is_there
      logvar = f"{stream}_logvar"
      for name in (stream, logvar) if stream in self.logvar else (stream,):
        if is_there:
          latents = getattr(example, name)
          self._check_shape(stream, name, latents, example.name)
          record[name] = _half(latents, name, example.name)
        else:
          # One row, for TFDS cannot read none.
          record[name] = np.zeros((1, *self.shapes[stream][1:]), np.float16)
    return tf_example.ordered(self.features.serialize_example(record))

  def _check_shape(self, stream: str, name: str, latents, clip: str) -> None:
    expected = self.shapes[stream]
    # Sound may be a little shorter or longer than the picture.
    free = 1 if stream == "audio" else 0
    shape = np.shape(latents)
    if len(shape) != len(expected) or list(shape[free:]) != expected[free:]:
      raise ValueError(
        f"{clip}: {name} latents have shape {shape}, expected"
        f" {tuple(expected)}."
      )


@dataclasses.dataclass
class ShardManifest:
  """What became of the clips of a shard.

  Attributes:
    split, index: which one it is.
    count, num_bytes: of its examples.
    moments: stream -> number, sum and sum of squares of its latents.
    left_out: name -> reason, of clips that cannot be used.
    cut_captions: how many were longer than the text encoder takes.
  """

  split: str
  index: int
  count: int = 0
  num_bytes: int = 0
  moments: dict[str, list[float]] = dataclasses.field(
    default_factory=lambda: {stream: [0.0] * 3 for stream in STREAMS}
  )
  left_out: dict[str, str] = dataclasses.field(default_factory=dict)
  cut_captions: int = 0

  def path(self, folder: epath.PathLike) -> epath.Path:
    """Where it is kept."""
    name = f"{self.split}-{self.index:05d}.json"
    return epath.Path(folder) / "shards" / name


class Shard:
  """Takes examples while it is written; see `writing_shard`.

  TFDS's own writer compresses, which saves a tenth of such latents and makes
  them three times slower to read.
  """

  def __init__(
    self, path: os.PathLike, form: RecordSchema, note: ShardManifest
  ):
    self.note, self._form = note, form
    self._file = ArrayRecordWriter(os.fspath(path), "group_size:1,uncompressed")

  def add(self, example: Example) -> None:
    """Raises ValueError for latents that are not finite or do not fit."""
    record = self._form.serialize(example)
    self._file.write(record)
    self.note.count += 1
    self.note.num_bytes += len(record)
    for stream in STREAMS:
      if getattr(example, stream) is not None:
        x = getattr(example, stream).astype(np.float16).astype(np.float64)
        new = (x.size, x.sum(), np.square(x).sum())
        old = self.note.moments[stream]
        self.note.moments[stream] = [
          a + float(b) for a, b in zip(old, new, strict=True)
        ]

  def close(self) -> None:
    self._file.close()


@contextlib.contextmanager
def writing_shard(
  folder: epath.PathLike, form: RecordSchema, split: str, index: int
) -> Iterator[Shard]:
  """A shard that is in the folder, with its note, when the block ends."""
  note = ShardManifest(split, index)
  path = template(folder, split).sharded_filepath(
    shard_index=index, num_shards=None
  )
  with replacing(path) as partial:
    shard = Shard(partial, form, note)
    try:
      yield shard
    finally:
      shard.close()
  with replacing(note.path(folder)) as partial:
    partial.write_text(json.dumps(dataclasses.asdict(note), indent=1) + "\n")


def template(
  folder: epath.PathLike, split: str
) -> tfds.core.ShardedFileTemplate:
  """How TFDS names the files of a split."""
  return tfds.core.ShardedFileTemplate(
    dataset_name="ccl",
    data_dir=epath.Path(folder),
    split=split,
    filetype_suffix="array_record",
    template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}",
  )


def count_notes(folder: epath.PathLike) -> int:
  """How many shards are finished."""
  folder = epath.Path(folder) / "shards"
  return len(list(folder.glob("*.json"))) if folder.exists() else 0


def read_notes(folder: epath.PathLike) -> list[ShardManifest]:
  """Of the finished shards, by split and index."""
  folder = epath.Path(folder) / "shards"
  paths = folder.glob("*.json") if folder.exists() else ()
  notes = [ShardManifest(**json.loads(path.read_text())) for path in paths]
  return sorted(notes, key=lambda note: (note.split, note.index))


def statistics(notes: Sequence[ShardManifest]) -> dict[str, dict[str, float]]:
  """Mean and deviation of each stream; ValueError if they are far off."""
  if not sum(note.count for note in notes):
    raise ValueError("There are no examples to write.")
  found = {}
  for stream in STREAMS:
    count, total, squares = np.sum([n.moments[stream] for n in notes], axis=0)
    if count:
      mean = total / count
      std = np.sqrt(max(squares / count - mean**2, 0))
      found[stream] = {"mean": float(mean), "std": float(std)}
      low, high = _DEVIATIONS
      if abs(mean) > _LARGEST_MEAN or not low < std < high:
        raise ValueError(
          f"The {stream} latents have mean {mean:.3g} and deviation"
          f" {std:.3g}, expected about 0 and 1 (|mean| up to"
          f" {_LARGEST_MEAN}, deviation {low} to {high}): these clips are not"
          " what the codecs were made for."
        )
  return found


def describe(
  folder: epath.PathLike, form: RecordSchema, notes: Sequence[ShardManifest]
) -> None:
  """Writes what TFDS wants to know about the folder's shards."""
  identity = tfds.core.DatasetIdentity(
    name="ccl",
    version=tfds.core.Version("1.0.0"),
    data_dir=os.fspath(folder),
    module_name="",
  )
  info = tfds.core.DatasetInfo(
    builder=identity,
    features=form.features,
    description="Video and audio latents with prompts.",
  )
  info.set_file_format("array_record")
  splits = {
    split: [note for note in notes if note.split == split]
    for split in dict.fromkeys(note.split for note in notes)
  }
  info.set_splits(
    tfds.core.splits.SplitDict(
      [
        tfds.core.SplitInfo(
          name=split,
          shard_lengths=[note.count for note in own],
          num_bytes=sum(note.num_bytes for note in own),
          filename_template=template(folder, split),
        )
        for split, own in splits.items()
      ]
    )
  )
  info.write_to_directory(folder)


def _half(x: np.ndarray, what: str, name: str) -> np.ndarray:
  """float16, which reaches 65504; more becomes infinite and is refused."""
  with np.errstate(over="ignore"):
    x = x.astype(np.float16)
  if not np.isfinite(x).all():
    raise ValueError(f"{name}: {what} has values that are not finite.")
  return x

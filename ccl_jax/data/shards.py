"""ArrayRecord files of encoded clips, each written completely or not at all.

    ccl-SPLIT.array_record-00007   the examples, under the name TFDS expects
    shards/SPLIT-00007.json        its `ShardManifest`

The manifest is written last: a shard that has one is complete.
"""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath
from jaxtyping import Float

from ccl_jax.array_types import STREAMS
from ccl_jax.codecs.api import Codecs
from ccl_jax.data import tf_example
from ccl_jax.data.clip import ClipShape
from ccl_jax.storage.files import find, replacing
from ccl_jax.storage.text_files import read_json, write_json

# Codecs scale latents to mean 0 and standard deviation 1; beyond these limits
# the clips are not of the kind that the codecs were made for.
_MAX_MEAN, _MIN_STD, _MAX_STD = 1.0, 0.25, 4.0


class EncodedClip(NamedTuple):
  """One example; a stream that the clip lacks is None.

  Where the codec has a variance, latents are N(video, exp(video_logvar)).
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
  """The features of every example of a data set.

  Attributes:
    shapes: of video (f, h, w, c), audio (m, c) and text (l, d) as a model takes
      them.
    logvar: the streams whose log-variance is stored.
  """

  shapes: dict[str, list[int]]
  logvar: tuple[str, ...] = ()

  @classmethod
  def from_codecs(
    cls, codecs: Codecs, shape: ClipShape, logvar: Sequence[str] = ()
  ) -> "RecordSchema":
    """Returns the schema of clips of one shape."""
    shapes = {s: list(x) for s, x in shape.latent_shapes(codecs).items()}
    text = [codecs.text.max_length, codecs.text.width]
    return cls(shapes | {"text": text}, tuple(logvar))

  @functools.cached_property
  def features(self) -> tfds.features.FeaturesDict:
    """Returns the features as TFDS describes them."""

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

  def serialize(self, clip: EncodedClip) -> bytes:
    """Returns a tf.train.Example; ValueError for latents it cannot hold."""
    record: dict[str, Any] = {
      "name": clip.name,
      "caption": clip.caption,
      "text": _to_float16(clip.text, "text", clip.name),
    }
    for stream in STREAMS:
      is_present = getattr(clip, stream) is not None
      record[f"has_{stream}"] = is_present
      logvar = (f"{stream}_logvar",) if stream in self.logvar else ()
      for name in (stream, *logvar):
        if is_present:
          latents = getattr(clip, name)
          self._check_shape(stream, name, latents, clip.name)
          record[name] = _to_float16(latents, name, clip.name)
        else:
          # TFDS cannot read arrays of no rows.
          record[name] = np.zeros((1, *self.shapes[stream][1:]), np.float16)
    return tf_example.sort_features(self.features.serialize_example(record))

  def _check_shape(self, stream: str, name: str, latents, clip: str) -> None:
    expected = self.shapes[stream]
    # Sound may be a little shorter or longer than the video.
    first = 1 if stream == "audio" else 0
    shape = np.shape(latents)
    if len(shape) != len(expected) or list(shape[first:]) != expected[first:]:
      raise ValueError(
        f"{clip}: {name} latents have shape {shape}, expected"
        f" {tuple(expected)}."
      )


@dataclasses.dataclass
class ShardManifest:
  """The contents of a shard and the clips that were left out of it.

  Attributes:
    split, index: its split, and its place in the split.
    count, num_bytes: number and total size of its examples.
    moments: stream -> number, sum and sum of squares of its latents.
    left_out: name -> reason, for each clip that cannot be used.
    cut_captions: number of captions longer than the text encoder takes.
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


class ShardWriter:
  """Writer of one ArrayRecord file; see `writing_shard`.

  TFDS's own writer compresses: latents shrink by a tenth and take three times
  as long to read.
  """

  def __init__(
    self, file: ArrayRecordWriter, schema: RecordSchema, manifest: ShardManifest
  ):
    self._file, self._schema, self.manifest = file, schema, manifest

  def add(self, clip: EncodedClip) -> None:
    """Writes a clip; ValueError as of `RecordSchema.serialize`."""
    record = self._schema.serialize(clip)
    self._file.write(record)
    self.manifest.count += 1
    self.manifest.num_bytes += len(record)
    for stream in STREAMS:
      if getattr(clip, stream) is not None:
        x = getattr(clip, stream).astype(np.float16).astype(np.float64)
        new = (x.size, x.sum(), np.square(x).sum())
        old = self.manifest.moments[stream]
        self.manifest.moments[stream] = [
          a + float(b) for a, b in zip(old, new, strict=True)
        ]


@contextlib.contextmanager
def writing_shard(
  folder: epath.PathLike, schema: RecordSchema, split: str, index: int
) -> Iterator[ShardWriter]:
  """Yields a writer; its shard and manifest appear when the block ends."""
  manifest = ShardManifest(split, index)
  path = file_template(folder, split).sharded_filepath(
    shard_index=index, num_shards=None
  )
  with replacing(path) as partial:
    file = ArrayRecordWriter(os.fspath(partial), "group_size:1,uncompressed")
    with contextlib.closing(file):
      yield ShardWriter(file, schema, manifest)
  name = f"{split}-{index:05d}.json"
  write_json(epath.Path(folder) / "shards" / name, dataclasses.asdict(manifest))


def file_template(
  folder: epath.PathLike, split: str
) -> tfds.core.ShardedFileTemplate:
  """Returns TFDS's naming scheme for the files of a split."""
  return tfds.core.ShardedFileTemplate(
    dataset_name="ccl",
    data_dir=epath.Path(folder),
    split=split,
    filetype_suffix="array_record",
    template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}",
  )


def count_manifests(folder: epath.PathLike) -> int:
  """Returns the number of complete shards."""
  return len(find(epath.Path(folder) / "shards", "*.json"))


def read_manifests(folder: epath.PathLike) -> list[ShardManifest]:
  """Returns the manifests of the complete shards, by split and index."""
  paths = find(epath.Path(folder) / "shards", "*.json")
  manifests = [ShardManifest(**read_json(path)) for path in paths]
  return sorted(manifests, key=lambda m: (m.split, m.index))


def latent_statistics(
  manifests: Sequence[ShardManifest],
) -> dict[str, dict[str, float]]:
  """Returns mean and standard deviation of the latents of each stream.

  Raises:
    ValueError: no examples, or statistics far from 0 and 1.
  """
  if not sum(m.count for m in manifests):
    raise ValueError("There are no examples to write.")
  found = {}
  for stream in STREAMS:
    moments = [m.moments[stream] for m in manifests]
    count, total, squares = np.sum(moments, axis=0)
    if count:
      mean = total / count
      std = np.sqrt(max(squares / count - mean**2, 0))
      found[stream] = {"mean": float(mean), "std": float(std)}
      if abs(mean) > _MAX_MEAN or not _MIN_STD < std < _MAX_STD:
        raise ValueError(
          f"The {stream} latents have mean {mean:.3g} and deviation"
          f" {std:.3g}, expected about 0 and 1 (|mean| up to {_MAX_MEAN},"
          f" deviation {_MIN_STD} to {_MAX_STD}). These clips are not of the"
          " kind that the codecs were made for: use other codecs."
        )
  return found


def write_dataset_info(
  folder: epath.PathLike,
  schema: RecordSchema,
  manifests: Sequence[ShardManifest],
) -> None:
  """Writes dataset_info.json and features.json, which TFDS reads."""
  identity = tfds.core.DatasetIdentity(
    name="ccl",
    version=tfds.core.Version("1.0.0"),
    data_dir=os.fspath(folder),
    module_name="",
  )
  info = tfds.core.DatasetInfo(
    builder=identity,
    features=schema.features,
    description="Video and audio latents with prompts.",
  )
  info.set_file_format("array_record")
  splits = {
    split: [m for m in manifests if m.split == split]
    for split in dict.fromkeys(m.split for m in manifests)
  }
  info.set_splits(
    tfds.core.splits.SplitDict(
      [
        tfds.core.SplitInfo(
          name=split,
          shard_lengths=[m.count for m in own],
          num_bytes=sum(m.num_bytes for m in own),
          filename_template=file_template(folder, split),
        )
        for split, own in splits.items()
      ]
    )
  )
  info.write_to_directory(folder)


def _to_float16(x: np.ndarray, kind: str, name: str) -> np.ndarray:
  """Returns x as float16; ValueError if a value is not finite in it."""
  with np.errstate(over="ignore"):  # above 65504 is infinite
    x = x.astype(np.float16)
  if not np.isfinite(x).all():
    raise ValueError(f"{name}: {kind} has values that are not finite.")
  return x

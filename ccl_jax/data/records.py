"""Encoded clips on disk: ArrayRecord shards, as a data set that TFDS knows.

    dataset_info.json features.json    what TFDS needs
    ccl-SPLIT.array_record-00000 ...   the examples
    metadata.json                      clip and latent shapes, counts
    null_text.npy                      embedding of the empty prompt (l, d)
    codecs/                            what turns latents back into clips

An example has `video` (f, h, w, c), `audio` (m', c) and `text` (l', d), all
float16 and not padded; `has_video` and `has_audio` (a stream that the clip
lacks is stored as zeros); `caption` and `name`.
"""

import contextlib
import hashlib
import json
import os
import pathlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath
from jaxtyping import Float

from ccl_jax.codecs.bundle import Codecs
from ccl_jax.data import wire
from ccl_jax.files import replacing
from ccl_jax.types import audio_per_frame

_SHARD = 1024
# Codecs give latents of mean 0 and deviation 1; beyond this something is wrong.
_LARGEST_MEAN, _DEVIATIONS = 1.0, (0.25, 4.0)


class Example(NamedTuple):
  """One encoded clip; a stream that it does not have is None."""

  name: str
  split: str
  caption: str
  text: Float[np.ndarray, "l d"]
  video: Float[np.ndarray, "f h w c"] | None
  audio: Float[np.ndarray, "m c"] | None


def split_of(name: str, validation: float) -> str:
  """ "validation" for that share of all names, by hash, else "train"."""
  digest = hashlib.sha256(name.encode()).digest()
  share = int.from_bytes(digest[:8], "big") / 2**64
  return "validation" if share < validation else "train"


@contextlib.contextmanager
def writing(
  path: epath.PathLike,
  codecs: Codecs,
  *,
  fps: float,
  frames: int,
  size: tuple[int, int],
) -> Iterator["Writer"]:
  """A writer whose records become the directory `path` when the block ends.

  Raises:
    ValueError: latents that are not finite, of another shape, or far from mean
      0 and deviation 1; no examples. Then nothing is left on disk.
  """
  metadata = {
    "fps": fps,
    "frames": frames,
    "size": list(size),
    "shapes": latent_shapes(codecs, fps, frames, size),
  }
  with replacing(path) as partial:
    partial.mkdir()
    writer = Writer(partial, metadata["shapes"])
    try:
      yield writer
    finally:
      writer.close()
    metadata["statistics"] = writer.checked_statistics()
    metadata["counts"] = dict(writer.counts)
    codecs.save(partial / "codecs")
    null_text = pad(codecs.text.encode(""), codecs.text.max_length)
    np.save(partial / "null_text.npy", null_text)
    text = json.dumps(metadata, indent=2)
    (partial / "metadata.json").write_text(text + "\n")


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


class Writer:
  """Adds examples to shards in a directory; see `writing`."""

  def __init__(self, path: pathlib.Path, shapes: dict[str, list[int]]):
    self.counts = Counter()
    self._path, self._shapes = path, shapes
    self._sums = {"video": np.zeros(3), "audio": np.zeros(3)}
    self._splits: dict[str, _Shards] = {}
    identity = tfds.core.DatasetIdentity(
      name="ccl",
      version=tfds.core.Version("1.0.0"),
      data_dir=str(path),
      module_name="",
    )
    self._info = tfds.core.DatasetInfo(
      builder=identity,
      features=_features(shapes),
      description="Video and audio latents with prompts.",
    )
    self._info.set_file_format("array_record")

  def add(self, example: Example) -> None:
    """Raises ValueError for latents that are not finite or do not fit."""
    record: dict[str, Any] = {
      "name": example.name,
      "caption": example.caption,
      "text": _half(example.text, "text", example.name),
    }
    for stream in ("video", "audio"):
      latents = getattr(example, stream)
      record[f"has_{stream}"] = latents is not None
      if latents is None:
        record[stream] = np.zeros(self._shapes[stream], np.float16)
      else:
        self._check_shape(stream, latents, example.name)
        record[stream] = _half(latents, stream, example.name)
        moments = (latents.size, latents.sum(), np.square(latents).sum())
        self._sums[stream] += moments
    if example.split not in self._splits:
      self._splits[example.split] = _Shards(self._path, example.split)
    serialized = self._info.features.serialize_example(record)
    self._splits[example.split].write(serialized)
    self.counts[example.split] += 1

  def close(self) -> None:
    """Closes the shards and describes them."""
    infos = [shards.close() for shards in self._splits.values()]
    self._info.set_splits(tfds.core.splits.SplitDict(infos))
    self._info.write_to_directory(self._path)

  def checked_statistics(self) -> dict[str, dict[str, float]]:
    """Mean and deviation of each stream; ValueError if they are far off."""
    if not self.counts:
      raise ValueError("There are no examples to write.")
    found = {}
    for stream, (count, total, squares) in self._sums.items():
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

  def _check_shape(self, stream: str, latents, name: str) -> None:
    expected = self._shapes[stream]
    # Sound may be a little shorter or longer than the picture.
    free = 1 if stream == "audio" else 0
    is_rank = latents.ndim == len(expected)
    if not is_rank or list(latents.shape[free:]) != expected[free:]:
      raise ValueError(
        f"{name}: {stream} latents have shape {latents.shape}, expected"
        f" {tuple(expected)}."
      )


class _Shards:
  """The files of one split, as TFDS names them.

  TFDS's own writer compresses, which saves a tenth of such latents and makes
  them three times slower to read.
  """

  def __init__(self, path: pathlib.Path, split: str):
    self._split, self._lengths, self._bytes = split, [], 0
    self._template = tfds.core.ShardedFileTemplate(
      dataset_name="ccl",
      data_dir=epath.Path(path),
      split=split,
      filetype_suffix="array_record",
      template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}",
    )
    self._file = self._open()

  def write(self, record: bytes) -> None:
    if self._lengths[-1] == _SHARD:
      self._file.close()
      self._file = self._open()
    self._file.write(record)
    self._lengths[-1] += 1
    self._bytes += len(record)

  def close(self) -> tfds.core.SplitInfo:
    self._file.close()
    return tfds.core.SplitInfo(
      name=self._split,
      shard_lengths=self._lengths,
      num_bytes=self._bytes,
      filename_template=self._template,
    )

  def _open(self) -> ArrayRecordWriter:
    path = self._template.sharded_filepath(
      shard_index=len(self._lengths), num_shards=None
    )
    self._lengths.append(0)
    return ArrayRecordWriter(os.fspath(path), "group_size:1,uncompressed")


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

  An example is a dict: `video`, `audio` and `text` as they are stored (views,
  not copies), bool `has_video` and `has_audio`, strings `caption` and `name`.
  """

  def __init__(self, paths: list[str], shapes: dict[str, list[int]]):
    self._records, self._shapes = ArrayRecordDataSource(paths), shapes

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> dict[str, Any]:
    if not 0 <= index < len(self):
      raise IndexError(f"Example {index} of {len(self)}.")
    values = wire.parse(self._records[index])
    example: dict[str, Any] = {}
    for name, (*_, channels) in self._shapes.items():
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
  shards = epath.Path(path).glob(f"ccl-{split}.array_record-*")
  return Split(sorted(os.fspath(p) for p in shards), metadata["shapes"])


def pad(
  x: Float[np.ndarray, " l *rest"], length: int
) -> Float[np.ndarray, " n *rest"]:
  """The first `length` rows, with zeros after the last."""
  x = x[:length]
  return np.pad(x, ((0, length - len(x)), *((0, 0),) * (x.ndim - 1)))


def _features(shapes: dict[str, list[int]]) -> tfds.features.FeaturesDict:
  def latents(name):
    *rest, channels = shapes[name]
    # Raw bytes: a list of numbers is three times slower to read.
    return tfds.features.Tensor(
      shape=(None,) * len(rest) + (channels,),
      dtype=np.float16,
      encoding="bytes",
    )

  flag = tfds.features.Scalar(np.bool_)
  return tfds.features.FeaturesDict(
    {
      **{name: latents(name) for name in shapes},
      "has_video": flag,
      "has_audio": flag,
      "caption": tfds.features.Text(),
      "name": tfds.features.Text(),
    }
  )


def _half(x: np.ndarray, what: str, name: str) -> np.ndarray:
  """float16, which reaches 65504; more becomes infinite and is refused."""
  with np.errstate(over="ignore"):
    x = x.astype(np.float16)
  if not np.isfinite(x).all():
    raise ValueError(f"{name}: {what} has values that are not finite.")
  return x

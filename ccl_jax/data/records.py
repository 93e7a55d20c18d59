"""Encoded clips on disk: ArrayRecord shards in the layout of a TFDS data set.

    ccl-SPLIT.array_record-00000 ...   the examples, see `data.shards`
    shards/                            a manifest of each shard
    codecs/                            the codecs that decode the latents
    null_text.npy                      embedding of the empty prompt (l, d)
    dataset_info.json features.json    what TFDS reads
    metadata.json                      shapes of clips and latents, counts
    49x64x96/ ...                      a data set of clips of another shape

An example has `video` (f, h, w, c), `audio` (m', c) and `text` (l', d), all
float16 and not padded; `has_video` and `has_audio` (if the clip lacks a stream,
it is one row of zeros); `caption` and `name`. Codecs with a variance add
`video_logvar` or `audio_logvar`: latents are then N(mean, exp(logvar)).
"""

import contextlib
import dataclasses
import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from etils import epath
from jaxtyping import Float

from ccl_jax.codecs.api import Codecs
from ccl_jax.data import shards, tf_example
from ccl_jax.data.bucket_records import BucketRecords
from ccl_jax.data.clip import ClipShape
from ccl_jax.storage.files import find, is_remote, replacing
from ccl_jax.storage.text_files import read_json, write_json


def split_by_hash(name: str, validation_fraction: float) -> str:
  """Returns "validation" for that fraction of all names, else "train"."""
  is_held_out = hash_to_uniform(name) < validation_fraction
  return "validation" if is_held_out else "train"


def hash_to_uniform(name: str) -> float:
  """Returns a number in [0, 1) that depends on the name only."""
  digest = hashlib.sha256(name.encode()).digest()
  return int.from_bytes(digest[:8], "big") / 2**64


def finalize(
  folder: epath.PathLike,
  schema: shards.RecordSchema,
  codecs: Codecs,
  shape: ClipShape,
  statistics: Mapping[str, Any] | None = None,
  buckets: Sequence[str] = (),
) -> None:
  """Writes the files that make complete shards a data set.

  metadata.json comes last: a folder that has one is complete.

  Args:
    statistics: mean and deviation of each stream's latents; None computes them.
    buckets: folders below it with the data sets of further shapes.

  Raises:
    ValueError: no examples, or latents whose mean and deviation over all shards
      are far from 0 and 1.
  """
  folder, manifests = epath.Path(folder), shards.read_manifests(folder)
  statistics = statistics or shards.latent_statistics(manifests)
  counts = Counter()
  for manifest in manifests:
    counts[manifest.split] += manifest.count
  counts = {split: count for split, count in counts.items() if count}
  own = [m for m in manifests if m.split in counts]
  shards.write_dataset_info(folder, schema, own)
  null_text = pad(codecs.text.encode(""), codecs.text.max_length)
  path = folder / "null_text.npy"
  with replacing(path) as partial, partial.open("wb") as file:
    np.save(file, null_text)
  metadata = dataclasses.asdict(shape) | dataclasses.asdict(schema)
  metadata |= {"statistics": statistics, "counts": counts}
  metadata |= {"buckets": list(buckets)} if buckets else {}
  write_json(folder / "metadata.json", metadata)


def read_metadata(path: epath.PathLike) -> dict[str, Any]:
  """Returns metadata.json; ValueError if `path` is not a data set."""
  file = epath.Path(path) / "metadata.json"
  if not file.exists():
    raise ValueError(
      f"'{os.fspath(path)}' holds no metadata.json: not encoded data. Make it"
      " with python -m ccl_jax.encode."
    )
  return read_json(file)


def list_buckets(path: epath.PathLike) -> dict[epath.Path, dict[str, Any]]:
  """Returns folder -> `read_metadata` of a data set, then its other shapes."""
  metadata = read_metadata(path)
  below = [epath.Path(path) / name for name in metadata.get("buckets", ())]
  return {epath.Path(path): metadata} | {x: read_metadata(x) for x in below}


def list_examples(
  path: epath.PathLike, splits: Sequence[str] = ()
) -> list[tuple[epath.Path, str, int]]:
  """Returns the data set of its shape, the split and the place of each clip.

  Args:
    splits: () is all.

  Raises:
    ValueError: no data set, or no clip in one of the splits.
  """
  counts = {f: x["counts"] for f, x in list_buckets(path).items()}
  splits = splits or dict.fromkeys(x for own in counts.values() for x in own)
  found = []
  for split in splits:
    own = [folder for folder in counts if split in counts[folder]]
    for folder in own or [epath.Path(path)]:
      length = len(open_split(folder, split))
      found += [(folder, split, i) for i in range(length)]
  return found


@contextlib.contextmanager
def naming_damage(folder: str) -> Iterator[None]:
  """Raises a ValueError with the folder for what is damaged in its records."""
  try:
    yield
  except RuntimeError as error:
    reason = str(error).splitlines()[0][:200]
    raise ValueError(
      f"records in '{folder}' cannot be read ({reason}): copy them again."
    ) from error


class Split(Sequence):
  """Random access to the examples of one split.

  An example is a dict, as the module lists it; arrays are views, not copies.
  """

  def __init__(self, paths: list[str], channels: dict[str, int]):
    is_in_bucket = any(map(is_remote, paths))
    reader = BucketRecords if is_in_bucket else ArrayRecordDataSource
    self._folder, self._channels = os.path.dirname(paths[0]), channels
    with naming_damage(self._folder):
      self._records = reader(paths)

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> dict[str, Any]:
    if not 0 <= index < len(self):
      raise IndexError(f"Example {index} of {len(self)}.")
    with naming_damage(self._folder):
      record = self._records[index]
    values = tf_example.parse(record)
    example: dict[str, Any] = {}
    for name, channels in self._channels.items():
      # TFDS writes the shape of arrays with more than one unknown dimension.
      data = values[f"{name}/value" if f"{name}/value" in values else name]
      shape = values.get(f"{name}/shape", (-1, channels))
      example[name] = np.frombuffer(data, np.float16).reshape(shape)
    for name in ("has_video", "has_audio"):
      example[name] = bool(values[name][0])
    for name in ("caption", "name"):
      example[name] = bytes(values[name]).decode()
    return example


def open_split(path: epath.PathLike, split: str) -> Split:
  """Returns the examples of a split.

  Raises:
    ValueError: no data set at `path`, it has no such split, or files of it are
      missing.
  """
  metadata = read_metadata(path)
  counts = metadata["counts"]
  if split not in counts:
    raise ValueError(
      f"No split '{split}' in {os.fspath(path)}; there are: {counts}."
    )
  files = find(path, f"ccl-{split}.array_record-*")
  channels = {name: shape[-1] for name, shape in metadata["shapes"].items()}
  # Data sets of early versions do not have the key.
  for stream in metadata.get("logvar", ()):
    channels[f"{stream}_logvar"] = channels[stream]
  paths = [os.fspath(file) for file in files]
  found = Split(paths, channels) if paths else ()
  if len(found) != counts[split]:
    raise ValueError(
      f"'{os.fspath(path)}' has {len(found)} clips of '{split}' in"
      f" {len(paths)} files, expected {counts[split]}: files are missing, or of"
      " another data set. Copy it again."
    )
  return found


def pad(
  x: Float[np.ndarray, " l *rest"], length: int
) -> Float[np.ndarray, " n *rest"]:
  """Returns the first `length` rows, padded with rows of zeros."""
  x = x[:length]
  return np.pad(x, ((0, length - len(x)), *((0, 0),) * (x.ndim - 1)))

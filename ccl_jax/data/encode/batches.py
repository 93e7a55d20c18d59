"""Runs batches of clips through the codecs while the next ones are decoded.

Every batch has the same number of rows, so a codec is compiled once: a smaller
batch repeats its last row. Three stages run at once: processes decode the clips
of the next batches, the device encodes one, and the caller writes the previous
one.
"""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from tqdm import tqdm

from ccl_jax.array_types import STREAMS
from ccl_jax.codecs.api import AudioCodec, Codecs, VideoCodec
from ccl_jax.data import media, shards
from ccl_jax.data.encode.clip_files import ClipFile
from ccl_jax.data.encode.decode_pool import DecodedClip, DecodePool


class ShardJob(NamedTuple):
  """The clips of one shard."""

  split: str
  index: int
  clip_files: Sequence[ClipFile]


class Batch(NamedTuple):
  """Decoded clips of one shard, and the usable ones encoded."""

  split: str
  index: int
  decoded: Sequence[tuple[ClipFile, DecodedClip]]
  encoded: Sequence[shards.EncodedClip] = ()


def make_jobs(clip_files: Sequence[ClipFile], size: int) -> list[ShardJob]:
  """Groups the clips of each split into shards of `size`, in their order.

  Clips that turn out to be unusable count too: the first clip of a shard does
  not depend on the contents of the files.
  """
  splits: dict[str, list[ClipFile]] = {}
  for file in clip_files:
    splits.setdefault(file.split, []).append(file)
  return [
    ShardJob(split, i, splits[split][i * size : (i + 1) * size])
    for split in sorted(splits)
    for i in range(-(-len(splits[split]) // size))
  ]


def decode_batches(
  jobs: Sequence[ShardJob], pool: DecodePool, rows: int
) -> Iterator[Batch]:
  """Yields batches of at most `rows` usable clips, each of one shard."""
  decoded = pool([file for job in jobs for file in job.clip_files])
  for split, index, files in jobs:
    batch, num_usable = [], 0
    for file, clip in itertools.islice(decoded, len(files)):
      batch.append((file, clip))
      num_usable += isinstance(clip, media.Clip)
      if num_usable == rows:
        yield Batch(split, index, batch)
        batch, num_usable = [], 0
    if batch:
      yield Batch(split, index, batch)


def encode_shards(
  folder: epath.PathLike,
  jobs: Sequence[ShardJob],
  pool: DecodePool,
  codecs: Codecs,
  schema: shards.RecordSchema,
  rows: int,
) -> None:
  """Writes the shard of every job whose shard is not complete yet."""
  complete = {(m.split, m.index) for m in shards.read_manifests(folder)}
  todo = [job for job in jobs if (job.split, job.index) not in complete]
  total, rest = (
    sum(len(job.clip_files) for job in some) for some in (jobs, todo)
  )
  encode = functools.partial(
    encode_batch, codecs=codecs, logvar=schema.logvar, rows=rows
  )
  encoded = prefetch(encode, decode_batches(todo, pool, rows))
  bar = tqdm(None, "encoding", total, initial=total - rest, unit=" clips")
  with contextlib.closing(encoded), bar:
    by_shard = itertools.groupby(encoded, lambda b: (b.split, b.index))
    for (split, index), batches in by_shard:
      with shards.writing_shard(folder, schema, split, index) as writer:
        for batch in batches:
          write_batch(writer, batch, codecs)
          bar.update(len(batch.decoded))


def write_batch(
  writer: shards.ShardWriter, batch: Batch, codecs: Codecs
) -> None:
  """Writes the encoded clips; notes cut captions and skipped clips."""
  for clip in batch.encoded:
    num_tokens = codecs.text.num_tokens(clip.caption)
    writer.manifest.cut_captions += num_tokens > codecs.text.max_length
    writer.add(clip)
  for file, clip in batch.decoded:
    if isinstance(clip, media.ClipError):
      writer.manifest.left_out[file.name] = str(clip)


def encode_batch(
  batch: Batch, codecs: Codecs, logvar: Sequence[str], rows: int
) -> Batch:
  """Returns the batch with encoded clips, and variances of streams `logvar`."""
  usable = [(f, c) for f, c in batch.decoded if isinstance(c, media.Clip)]
  if not usable:
    return batch
  texts = codecs.text.encode_all([file.caption for file, _ in usable])
  columns: dict[str, list] = {}
  for stream in STREAMS:
    inputs = [getattr(clip, stream) for _, clip in usable]
    posteriors = _encode_stream(getattr(codecs, stream), inputs, rows)
    columns[stream] = [mean for mean, _ in posteriors]
    if stream in logvar:
      columns[f"{stream}_logvar"] = [variance for _, variance in posteriors]
  encoded = [
    shards.EncodedClip(
      file.name, file.split, file.caption, texts[i],
      **{name: column[i] for name, column in columns.items()},
    )
    for i, (file, _) in enumerate(usable)
  ]  # fmt: skip
  return batch._replace(encoded=encoded)


def prefetch(function: Callable, items: Iterable) -> Iterator[Any]:
  """Yields function(item) in order, computing one ahead in a thread."""
  with ThreadPoolExecutor(1) as thread:
    previous = None
    for item in items:
      future = thread.submit(function, item)
      if previous is not None:
        yield previous.result()
      previous = future
    if previous is not None:
      yield previous.result()


def _encode_stream(
  codec: VideoCodec | AudioCodec, inputs: Sequence[Any], rows: int
) -> list[tuple]:
  """Returns mean and logvar of each input, (None, None) for None.

  The inputs go through the codec in one call of `rows` rows.
  """
  present = [i for i, x in enumerate(inputs) if x is not None]
  posteriors: list[tuple] = [(None, None)] * len(inputs)
  if present:
    padded = present + present[-1:] * (rows - len(present))
    mean, logvar = codec.posterior(np.stack([inputs[i] for i in padded]))
    for row, i in enumerate(present):
      posteriors[i] = mean[row], None if logvar is None else logvar[row]
  return posteriors

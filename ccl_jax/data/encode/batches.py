"""Clips through the codecs, many at once, while the next ones are decoded.

Every batch has the same number of rows, so a codec is compiled once: the last
row of a smaller one is repeated. While the device works on a batch, processes
decode the clips of the next one and the caller writes the last one.
"""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from etils import epath
from tqdm import tqdm

from ccl_jax.array_types import STREAMS
from ccl_jax.codecs.api import AudioCodec, Codecs, VideoCodec
from ccl_jax.data import media, shards
from ccl_jax.data.encode import captions
from ccl_jax.data.encode.decode_pool import DecodePool

Read = tuple[captions.ClipFile, media.Clip | media.ClipError]


class ShardJob(NamedTuple):
  """The clips of one shard."""

  split: str
  index: int
  clips: Sequence[captions.ClipFile]


class Batch(NamedTuple):
  """Some clips of a shard, and the examples of those that can be used."""

  split: str
  index: int
  read: Sequence[Read]
  examples: Sequence[shards.Example] = ()


def make_jobs(clips: Sequence[captions.ClipFile], size: int) -> list[ShardJob]:
  """Shards of `size` clips, bad ones among them, in the order given.

  So where a shard begins does not depend on which clips can be used.
  """
  splits: dict[str, list[captions.ClipFile]] = {}
  for clip in clips:
    splits.setdefault(clip.split, []).append(clip)
  return [
    ShardJob(split, i, splits[split][i * size : (i + 1) * size])
    for split in sorted(splits)
    for i in range(-(-len(splits[split]) // size))
  ]


def read_batches(
  jobs: Sequence[ShardJob], reader: DecodePool, rows: int
) -> Iterator[Batch]:
  """Decoded clips, at most `rows` that can be used; none of two shards."""
  read = reader([clip for job in jobs for clip in job.clips])
  for split, index, clips in jobs:
    batch, good = [], 0
    for source, clip in itertools.islice(read, len(clips)):
      batch.append((source, clip))
      good += isinstance(clip, media.Clip)
      if good == rows:
        yield Batch(split, index, batch)
        batch, good = [], 0
    if batch:
      yield Batch(split, index, batch)


def encode_shards(
  folder: epath.PathLike,
  jobs: Sequence[ShardJob],
  reader: DecodePool,
  codecs: Codecs,
  form: shards.RecordSchema,
  rows: int,
) -> None:
  """Writes a shard for every job that has none yet."""
  done = {(note.split, note.index) for note in shards.read_notes(folder)}
  left = [job for job in jobs if job[:2] not in done]
  total, rest = (sum(len(job.clips) for job in some) for some in (jobs, left))
  run = functools.partial(
    encode_batch, codecs=codecs, logvar=form.logvar, rows=rows
  )
  made = ahead(run, read_batches(left, reader, rows))
  bar = tqdm(None, "encoding", total, initial=total - rest, unit=" clips")
  with contextlib.closing(made), bar:
    for (split, index), group in itertools.groupby(made, lambda b: b[:2]):
      with shards.writing_shard(folder, form, split, index) as shard:
        for batch in group:
          write_batch(shard, batch, codecs)
          bar.update(len(batch.read))


def write_batch(shard: shards.Shard, batch: Batch, codecs: Codecs) -> None:
  """Adds the examples, and to the shard's note what is to be said of them."""
  for example in batch.examples:
    tokens = codecs.text.num_tokens(example.caption)
    shard.note.cut_captions += tokens > codecs.text.max_length
    shard.add(example)
  for source, clip in batch.read:
    if isinstance(clip, media.ClipError):
      shard.note.left_out[source.name] = str(clip)
      logging.warning("Left out: %s", clip)


def encode_batch(
  batch: Batch, codecs: Codecs, logvar: Sequence[str], rows: int
) -> Batch:
  """The batch with its examples.

  logvar: the streams whose variance is kept.
  """
  good = [(s, c) for s, c in batch.read if isinstance(c, media.Clip)]
  if not good:
    return batch
  texts = codecs.text.encode_all([source.caption for source, _ in good])
  columns: dict[str, list] = {}
  for stream in STREAMS:
    given = [getattr(clip, stream) for _, clip in good]
    latents = _posteriors(getattr(codecs, stream), given, rows)
    columns[stream] = [mean for mean, _ in latents]
    if stream in logvar:
      columns[f"{stream}_logvar"] = [variance for _, variance in latents]
  examples = [
    shards.Example(
      source.name, source.split, source.caption, texts[i],
      **{name: column[i] for name, column in columns.items()},
    )
    for i, (source, _) in enumerate(good)
  ]  # fmt: skip
  return batch._replace(examples=examples)


def ahead(function: Callable, items: Iterable) -> Iterator[Any]:
  """function(item) for each, in order, one of them ahead of the caller."""
  with ThreadPoolExecutor(1) as thread:
    before = None
    for item in items:
      future = thread.submit(function, item)
      if before is not None:
        yield before.result()
      before = future
    if before is not None:
      yield before.result()


def _posteriors(
  codec: VideoCodec | AudioCodec, given: Sequence[Any], rows: int
) -> list[tuple]:
  """Mean and logvar of each that is not None, by one call of `rows` rows."""
  there = [i for i, x in enumerate(given) if x is not None]
  found: list[tuple] = [(None, None)] * len(given)
  if there:
    padded = there + there[-1:] * (rows - len(there))
    mean, logvar = codec.posterior(np.stack([given[i] for i in padded]))
    for row, i in enumerate(there):
      found[i] = mean[row], None if logvar is None else logvar[row]
  return found

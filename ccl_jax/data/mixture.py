"""Several data sets as one endless stream of examples.

Position i of the stream belongs to one source, in a fixed interleaving that
depends on the weights alone (`grain.MapDataset.mix`): source k has n w_k of the
first n positions, up to one percent and one example. It supplies its own next
example there, in an order that depends on (seed, k). A position is thus one
integer, for any number of hosts, and an appended source does not change the
order of the other sources or the one place of each clip in an epoch.

If clips have several shapes, there is such a stream for each shape, a bucket,
as a batch has one shape. The weight of a source in a bucket is multiplied by
the share of its clips that have this shape, so that the weights hold for the
examples of an entire run.
"""

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import grain
import numpy as np
from etils import epath

from ccl_jax.codecs.api import Codecs
from ccl_jax.config import check_pairs
from ccl_jax.data import records
from ccl_jax.data.clip import ClipShape
from ccl_jax.storage import files

Shapes = dict[str, list[int]]


class Source(NamedTuple):
  """A data set of a mixture; the weights of all sum to 1."""

  path: str
  weight: float


def list_sources(
  path: epath.PathLike = "", sources: Sequence[Any] = ()
) -> tuple[Source, ...]:
  """Returns the sources of a config's `data`: `path` alone, or `sources`.

  Raises:
    ValueError: none or both of them, no pairs, a path twice, or a weight that
      is no positive number.
  """
  if not sources:
    if not os.fspath(path):
      raise ValueError(
        "--config.data.path is not set: give the folder that python -m"
        " ccl_jax.encode has written, --config.data.path=FOLDER, or several"
        " with weights as --config.data.sources"
      )
    return (Source(os.fspath(path), 1.0),)
  check_pairs("data.sources", sources, (int, float))
  if os.fspath(path):
    raise ValueError(
      f"data.path is {os.fspath(path)!r} and data.sources is set too: give one"
      " of them; a single folder is a source of any weight."
    )
  places = [files.absolute(name) for name, _ in sources]
  for (name, weight), place in zip(sources, places, strict=True):
    if not (weight > 0 and math.isfinite(weight)):
      raise ValueError(
        f"data.sources: {name!r} has the weight {weight}, expected a positive"
        " number. Leave out a set that is not to be used."
      )
    if places.count(place) > 1:
      raise ValueError(f"data.sources has {name!r} twice: add up its weights.")
  total = math.fsum(weight for _, weight in sources)
  return tuple(Source(name, weight / total) for name, weight in sources)


def main_path(data: Mapping[str, Any]) -> str:
  """Returns the first source of a config's `data` section.

  Previews are made of its clips, and its codecs are the run's.
  """
  return list_sources(data["path"], data.get("sources", ()))[0].path


def list_shapes(sources: Sequence[Source]) -> list[ClipShape]:
  """Returns the shapes of the clips of all sources, the main one first."""
  folders = [records.list_buckets(source.path) for source in sources]
  found = (ClipShape.from_dict(x) for own in folders for x in own.values())
  return list(dict.fromkeys(found))


def check_alike(sources: Sequence[Source]) -> None:
  """Raises ValueError unless all are data sets of one frame rate and codecs."""
  first = _kind(sources[0].path)
  for source in sources[1:]:
    other = _kind(source.path)
    wrong = [
      f"{key} {other[key]}, not {first[key]}"
      for key in first
      if other[key] != first[key]
    ]
    if wrong:
      raise ValueError(
        f"'{source.path}' does not fit '{sources[0].path}': it has"
        f" {'; '.join(wrong)}. Encode both with one encode section."
      )
  if len(sources) > 1:
    codecs = [Codecs.load(epath.Path(s.path) / "codecs") for s in sources]
    for source, own in zip(sources, codecs, strict=True):
      if not own.equals(codecs[0]):
        raise ValueError(
          f"'{source.path}' was encoded with other codecs than"
          f" '{sources[0].path}'. Encode it with"
          f" --codecs={sources[0].path}/codecs."
        )


def _kind(path: str) -> dict[str, Any]:
  """Returns what must be equal in all sources; lengths and sizes may differ."""
  metadata = records.read_metadata(path)
  shapes = metadata["shapes"]
  return {
    "fps": metadata["fps"],
    "text": shapes["text"],
    "video channels": shapes["video"][-1],
    "audio channels": shapes["audio"][-1],
  }


class Bucket(NamedTuple):
  """The clips of one shape, of all sources.

  Attributes:
    clip: the shape.
    shapes: of the arrays of an example.
    examples: the endless stream of them.
    shares: of all examples of a run that are of this shape: source -> share.
  """

  clip: ClipShape
  shapes: Shapes
  examples: grain.MapDataset
  shares: dict[int, float]

  @property
  def share(self) -> float:
    """Returns the share of the examples of a run."""
    return math.fsum(self.shares.values())


class Mixture:
  """Buckets of one shape each, with the endless stream of their examples.

  Raises:
    ValueError: sources that differ, or one without the split.
  """

  def __init__(
    self,
    sources: Sequence[Source],
    split: str,
    seed: int | None,
    count_tokens: Callable[[Shapes], float] | None = None,
  ):
    """Opens the sources.

    Args:
      seed: of the order in each epoch; None keeps that of the records.
      count_tokens: tokens of an example of some shapes: clips are then drawn as
        often as they have tokens; None draws all clips of a source as often.
    """
    check_alike(sources)
    self.sources = tuple(sources)
    alike: dict[ClipShape, list[Bucket]] = {}
    self.lengths = []
    for k, source in enumerate(sources):
      own = list(_open_buckets(k, source, split, seed, count_tokens))
      self.lengths.append(sum(length for _, length in own))
      for bucket, _ in own:
        alike.setdefault(bucket.clip, []).append(bucket)
    self.buckets = [_mix(buckets) for buckets in alike.values()]

  def progress(self, nums: Sequence[float]) -> dict[str, float]:
    """Returns what a log says after `nums` examples of each bucket.

    "weight/NAME" and "epochs/NAME" of each source, where NAME is its folder's,
    or its path if two have one name.
    """
    folders = [epath.Path(source.path).name for source in self.sources]
    values = {}
    for k, (source, length, name) in enumerate(
      zip(self.sources, self.lengths, folders, strict=True)
    ):
      name = source.path if folders.count(name) > 1 else name
      seen = (
        num * bucket.shares.get(k, 0.0) / bucket.share
        for num, bucket in zip(nums, self.buckets, strict=True)
      )
      values[f"weight/{name}"] = source.weight
      values[f"epochs/{name}"] = math.fsum(seen) / length
    return values

  def __str__(self) -> str:
    lines = [
      f"{source.weight:7.2%} {length:9,d} clips  {source.path}"
      for source, length in zip(self.sources, self.lengths, strict=True)
    ]
    if len(self.buckets) > 1:
      lines += [f"{b.share:7.2%} of {b.clip}" for b in self.buckets]
    return "\n".join(lines)


def _open_buckets(
  k: int,
  source: Source,
  split: str,
  seed: int | None,
  count_tokens: Callable[[Shapes], float] | None,
) -> Iterator[tuple[Bucket, int]]:
  """Yields a bucket, and its clips, for each shape of source k in the split."""
  buckets = records.list_buckets(source.path)
  folders, metadata = list(buckets), list(buckets.values())
  own = [i for i, each in enumerate(metadata) if split in each["counts"]] or [0]
  splits = [records.open_split(folders[i], split) for i in own]
  shapes = [metadata[i]["shapes"] for i in own]
  sizes = [
    len(each) * (count_tokens(shape) if count_tokens else 1)
    for each, shape in zip(splits, shapes, strict=True)
  ]
  for i, each, shape, size in zip(own, splits, shapes, sizes, strict=True):
    examples = grain.MapDataset.source(each)
    if seed is not None:
      examples = examples.shuffle(_source_seed(seed, k, i))
    shares = {k: source.weight * size / math.fsum(sizes)}
    clip = ClipShape.from_dict(metadata[i])
    yield Bucket(clip, shape, examples.repeat(), shares), len(each)


def _mix(buckets: Sequence[Bucket]) -> Bucket:
  """Returns the bucket of one shape of several sources, which has theirs."""
  first = buckets[0]
  for other in buckets[1:]:
    if other.shapes != first.shapes:
      raise ValueError(
        f"Sources of data.sources have clips of {first.clip} as {other.shapes}"
        f" and as {first.shapes}. Encode both with one encode section."
      )
  mixed = grain.MapDataset.mix(
    [bucket.examples for bucket in buckets], [each.share for each in buckets]
  )
  shares = {k: x for bucket in buckets for k, x in bucket.shares.items()}
  return first._replace(examples=mixed, shares=shares)


def _source_seed(seed: int, source: int, bucket: int) -> int:
  """Returns the seed of the order of a bucket of a source: first `seed`."""
  if not source and not bucket:
    return seed
  mixed = np.random.SeedSequence([seed, source, bucket])
  return int(mixed.generate_state(1)[0])

"""Several data sets as one endless stream of examples.

Position i of the stream belongs to one source, by the weights alone, in a fixed
interleaving (`grain.MapDataset.mix`): among the first n positions source k has
n w_k of them, up to a percent of that and one example. Source k then gives its
own next example, in an order that depends on (seed, k). A position is thus one
integer, for any number of hosts, and a source that is appended changes neither
the order of the others nor the one place that each clip has in an epoch.
"""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import grain
import numpy as np
from etils import epath

from ccl_jax.codecs.api import Codecs
from ccl_jax.config import check_pairs
from ccl_jax.data import records

# What one compiled program takes.
_EQUAL = ("fps", "frames", "size", "shapes")


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
  for name, weight in sources:
    if not (weight > 0 and math.isfinite(weight)):
      raise ValueError(
        f"data.sources: {name!r} has the weight {weight}, expected a positive"
        " number. Leave out a set that is not to be used."
      )
  names = [name for name, _ in sources]
  if twice := [name for name in names if names.count(name) > 1]:
    raise ValueError(
      f"data.sources has {twice[0]!r} twice: add up its weights."
    )
  total = math.fsum(weight for _, weight in sources)
  return tuple(Source(name, weight / total) for name, weight in sources)


def main_path(data: Mapping[str, Any]) -> str:
  """Returns the first source of a config's `data` section.

  Previews are made of its clips, and its codecs are the run's.
  """
  return list_sources(data["path"], data.get("sources", ()))[0].path


def check_alike(sources: Sequence[Source]) -> None:
  """Checks that the latents of all sources are of one kind.

  Raises:
    ValueError: one is no data set, or of another shape or other codecs than the
      first.
  """
  first = records.read_metadata(sources[0].path)
  for source in sources[1:]:
    other = records.read_metadata(source.path)
    wrong = [
      f"{key} {other[key]}, not {first[key]}"
      for key in _EQUAL
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


class Mixture:
  """The endless stream of examples of all sources; `mixture[i]` is one.

  Raises:
    ValueError: sources that differ, or one without the split.
  """

  def __init__(self, sources: Sequence[Source], split: str, seed: int | None):
    """Opens the sources.

    Args:
      seed: of the order in each epoch; None keeps that of the records.
    """
    check_alike(sources)
    self.sources = tuple(sources)
    splits = [records.open_split(source.path, split) for source in sources]
    self.lengths = tuple(len(each) for each in splits)
    streams = []
    for k, each in enumerate(splits):
      examples = grain.MapDataset.source(each)
      if seed is not None:
        examples = examples.shuffle(_source_seed(seed, k))
      streams.append(examples.repeat())
    weights = [source.weight for source in sources]
    # One source is as it would be without a mixture.
    mixed = len(streams) > 1
    self._examples = (
      grain.MapDataset.mix(streams, weights) if mixed else streams[0]
    )

  def __getitem__(self, index: int) -> dict[str, Any]:
    return self._examples[index]

  def progress(self, num: int) -> dict[str, float]:
    """Returns what a log says after `num` examples of the stream.

    "weight/NAME" and "epochs/NAME" of each source, where NAME is its folder's,
    or its path if two have one name.
    """
    folders = [epath.Path(source.path).name for source in self.sources]
    values = {}
    for source, length, name in zip(
      self.sources, self.lengths, folders, strict=True
    ):
      name = source.path if folders.count(name) > 1 else name
      values[f"weight/{name}"] = source.weight
      values[f"epochs/{name}"] = num * source.weight / length
    return values

  def __str__(self) -> str:
    return "\n".join(
      f"{source.weight:7.2%} {length:9,d} clips  {source.path}"
      for source, length in zip(self.sources, self.lengths, strict=True)
    )


def _source_seed(seed: int, index: int) -> int:
  """Returns the seed of the order of a source, the first one's is `seed`."""
  if not index:
    return seed
  return int(np.random.SeedSequence([seed, index]).generate_state(1)[0])

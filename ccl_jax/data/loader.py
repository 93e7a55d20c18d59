"""Batches of latents as a pure function of (data, seed, step).

Example i of the endless stream is record p_e(i mod N), where p_e permutes the N
records anew in every epoch e; batch t holds examples t b .. t b + b - 1. So the
whole state of the data is one integer, the step, and each of several hosts
reads its own rows of the same global batch, and no others.

Where records keep a posterior, example i is drawn from it anew in every epoch,

    mean + exp(logvar / 2) noise(seed, i)                                    (1)

with noise of a counter-based generator whose key is (seed, i), and so is what
it is on whichever host and after whichever restart.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import grain
import numpy as np
from etils import epath
from jaxtyping import Float

from ccl_jax.array_types import STREAMS
from ccl_jax.data import records

Shapes = dict[str, list[int]]


class Loader:
  """Batches by step; make one with `make_loader`."""

  def __init__(
    self,
    examples: grain.MapDataset,
    shapes: Shapes,
    null_text: np.ndarray,
    batch_size: int,
    rows: Sequence[int],
    seed: int | None,
    num_threads: int,
  ):
    self._examples, self._shapes, self._seed = examples, shapes, seed
    self._null_text, self._rows = null_text, rows
    self._batch_size = batch_size
    self._ahead = num_threads
    self._threads = ThreadPoolExecutor(num_threads) if num_threads else None
    self._pending: dict[int, Future] = {}

  def batch_at(self, step: int) -> dict[str, np.ndarray]:
    """This host's rows of the batch of a step.

    Returns:
      float16, as it is stored, video (b, f, h, w, c), audio (b, m, c) and text
      (b, l, d); float32 null_text (l, d); bool has_video and has_audio (b,). A
      stream that a clip lacks is zeros.
    """
    if self._threads is None:
      return self._make(step)
    wanted = range(step, step + self._ahead + 1)
    self._pending = {
      s: self._pending.get(s) or self._threads.submit(self._make, s)
      for s in wanted
    }
    return self._pending.pop(step).result()

  def names_at(self, step: int) -> list[str]:
    """The clips behind `batch_at(step)`."""
    return [self._examples[i]["name"] for i in self._indices(step)]

  def _indices(self, step: int) -> list[int]:
    return [step * self._batch_size + row for row in self._rows]

  def _make(self, step: int) -> dict[str, np.ndarray]:
    found = (self._example(i) for i in self._indices(step))
    batch = _stack(found, len(self._rows), self._shapes)
    return batch | {"null_text": self._null_text}

  def _example(self, index: int) -> dict[str, Any]:
    example = self._examples[index]
    return example if self._seed is None else drawn(example, self._seed, index)


def drawn(example: dict[str, Any], seed: int, index: int) -> dict[str, Any]:
  """The example at a place of the stream, drawn by (1) where it can be."""
  noise = np.random.Generator(np.random.Philox(key=[seed, index]))
  found = {}
  for stream in STREAMS:
    if f"{stream}_logvar" in example and example[f"has_{stream}"]:
      mean, logvar = example[stream], example[f"{stream}_logvar"]
      x = noise.standard_normal(mean.shape, np.float32)
      found[stream] = mean + np.exp(logvar.astype(np.float32) / 2) * x
  return example | found


def make_loader(
  path: epath.PathLike,
  split: str = "train",
  *,
  batch_size: int,
  seed: int = 0,
  shuffle: bool = True,
  num_threads: int = 0,
  rows: Sequence[int] | None = None,
  sample_posterior: bool = True,
) -> Loader:
  """A loader of the records in `path`.

  Args:
    batch_size: clips in the global batch.
    shuffle: a new order in each epoch, else the order of the records.
    num_threads: how many threads prepare batches ahead; 0 prepares when asked.
    rows: of the global batch, those that this host reads; None reads all.
    sample_posterior: draw latents where there is a posterior, else take its mean.

  Raises:
    ValueError: no such records or split; rows that the batch does not have.
  """
  rows = range(batch_size) if rows is None else rows
  if batch_size < 1 or not rows or min(rows) < 0 or max(rows) >= batch_size:
    raise ValueError(f"{rows=} are not of a {batch_size=}.")
  examples = grain.MapDataset.source(records.open_split(path, split))
  if shuffle:
    examples = examples.shuffle(seed)
  metadata = records.read_metadata(path)
  is_drawn = sample_posterior and metadata.get("logvar")
  return Loader(
    examples.repeat(), metadata["shapes"], null_text(path), batch_size, rows,
    seed if is_drawn else None, num_threads,
  )  # fmt: skip


def read_clips(
  path: epath.PathLike, split: str, num: int | None = None, start: int = 0
) -> dict[str, Any]:
  """`num` clips of a split from `start` on (all if None or if there are fewer).

  Returns:
    The arrays of `Loader.batch_at`, as float32 and of posteriors the mean, and
    the lists `caption` and `name`.
  """
  source = records.open_split(path, split)
  stop = None if num is None else start + num
  examples = [source[i] for i in range(len(source))[start:stop]]
  shapes = records.read_metadata(path)["shapes"]
  clips = {
    name: x if x.dtype == bool else x.astype(np.float32)
    for name, x in _stack(examples, len(examples), shapes).items()
  }
  names = ("caption", "name")
  lists = {n: [e[n] for e in examples] for n in names}
  return clips | {"null_text": null_text(path)} | lists


def null_text(path: epath.PathLike) -> Float[np.ndarray, "l d"]:
  """The embedding of the empty prompt."""
  with (epath.Path(path) / "null_text.npy").open("rb") as file:
    return np.load(file)


def _stack(
  examples: Iterable[dict[str, Any]], num: int, shapes: Shapes
) -> dict[str, np.ndarray]:
  """Arrays of the model's lengths: longer ones are cut, shorter end in zeros.

  Each example is read, copied to its row and dropped before the next: at the
  paper's sizes fresh memory is what loading costs.
  """
  batch = {k: np.empty((num, *shapes[k]), np.float16) for k in shapes}
  batch |= {k: np.empty(num, bool) for k in ("has_video", "has_audio")}
  for row, example in enumerate(examples):
    for name, (length, *_) in shapes.items():
      x = example[name][:length]
      batch[name][row, : len(x)] = x
      batch[name][row, len(x) :] = 0
    for name in ("has_video", "has_audio"):
      batch[name][row] = example[name]
  return batch

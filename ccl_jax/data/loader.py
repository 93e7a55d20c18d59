"""Batches of latents as a pure function of (data, seed, step).

Example i of the endless stream is record p_e(i mod N), where p_e permutes the N
records anew in every epoch e; batch t holds examples t b .. t b + b - 1. The
state of the data is therefore one integer, the step, and each of several hosts
reads its own rows of the same global batch and no others. Grain supplies the
permutation; its iterators hold state of their own, so they are not used. Of
several data sets `mixture` makes one stream.

Where records store a variance, example i is sampled anew in every epoch,

    mean + exp(logvar / 2) noise(seed, i)                                    (1)

with noise from a counter-based generator whose key is (seed, i), so the noise
is identical on every host and after every restart.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float

from ccl_jax.array_types import STREAMS
from ccl_jax.data import records
from ccl_jax.data.mixture import Mixture, list_sources

Shapes = dict[str, list[int]]
_FLAGS = ("has_video", "has_audio")


class Loader:
  """Batches of one split of a data set, or of a mixture of some, by step."""

  def __init__(
    self,
    path: epath.PathLike = "",
    split: str = "train",
    *,
    sources: Sequence[Any] = (),
    batch_size: int,
    seed: int = 0,
    shuffle: bool = True,
    num_threads: int = 0,
    rows: Sequence[int] | None = None,
    sample_posterior: bool = True,
  ):
    """Opens the data sets.

    Args:
      sources: path and weight of each of several data sets, instead of `path`:
        a share of the examples in proportion to its weight is drawn from it.
      batch_size: clips in the global batch.
      shuffle: use a new order in each epoch, else the order of the records.
      num_threads: threads that prepare the next batches; 0 prepares none ahead.
      rows: the rows of the global batch that this host reads; None reads all.
      sample_posterior: sample latents that have a variance by (1), else take
        their mean.

    Raises:
      ValueError: no such data set or split; sets or weights that cannot be
        mixed; rows outside the batch.
    """
    rows = range(batch_size) if rows is None else rows
    if batch_size < 1 or not rows or min(rows) < 0 or max(rows) >= batch_size:
      raise ValueError(f"{rows=} are not rows of a batch: {batch_size=}.")
    chosen = list_sources(path, sources)
    self.mixture = Mixture(chosen, split, seed if shuffle else None)
    metadata = [records.read_metadata(source.path) for source in chosen]
    samples = sample_posterior and any(x.get("logvar") for x in metadata)
    self._noise_seed = seed if samples else None
    self._shapes = metadata[0]["shapes"]
    self._null_text = read_null_text(chosen[0].path)
    self._batch_size, self._rows = batch_size, rows
    self._num_threads = num_threads
    self._threads = ThreadPoolExecutor(num_threads) if num_threads else None
    self._pending: dict[int, Future] = {}

  def batch_at(self, step: int) -> dict[str, np.ndarray]:
    """Returns this host's rows of the batch of a step.

    float16, as it is stored, video (b, f, h, w, c), audio (b, m, c) and text
    (b, l, d); float32 null_text (l, d); bool has_video and has_audio (b,). A
    stream that a clip lacks is zeros.
    """
    if self._threads is None:
      return self._load(step)
    # This step and the next ones. Other steps that are pending are dropped:
    # they are left over from before a jump to another step.
    self._pending = {
      s: self._pending.get(s) or self._threads.submit(self._load, s)
      for s in range(step, step + self._num_threads + 1)
    }
    return self._pending.pop(step).result()

  def names_at(self, step: int) -> list[str]:
    """Returns the names of the clips of `batch_at(step)`."""
    return [self.mixture[i]["name"] for i in self._indices(step)]

  def progress_at(self, step: int) -> dict[str, float]:
    """Returns the weight and the epochs of each data set before a step."""
    return self.mixture.progress(step * self._batch_size)

  def _indices(self, step: int) -> list[int]:
    return [step * self._batch_size + row for row in self._rows]

  def _load(self, step: int) -> dict[str, np.ndarray]:
    examples = (self._example(i) for i in self._indices(step))
    batch = _stack(examples, len(self._rows), self._shapes)
    return batch | {"null_text": self._null_text}

  def _example(self, index: int) -> dict[str, Any]:
    example = self.mixture[index]
    if self._noise_seed is None:
      return example
    return sample_posterior(example, self._noise_seed, index)


def sample_posterior(
  example: dict[str, Any], seed: int, index: int
) -> dict[str, Any]:
  """Returns the example with latents sampled by (1) where it has a variance.

  index: of the example in the endless stream.
  """
  noise = np.random.Generator(np.random.Philox(key=[seed, index]))
  sampled = {}
  for stream in STREAMS:
    if f"{stream}_logvar" in example and example[f"has_{stream}"]:
      mean, logvar = example[stream], example[f"{stream}_logvar"]
      x = noise.standard_normal(mean.shape, np.float32)
      sampled[stream] = mean + np.exp(logvar.astype(np.float32) / 2) * x
  return example | sampled


def read_clips(
  path: epath.PathLike, split: str, num: int | None = None, start: int = 0
) -> dict[str, Any]:
  """Reads `num` clips of a split from `start` on; None reads all.

  Returns:
    The arrays of `Loader.batch_at` as float32 (the mean where there is a
    variance), and the lists `caption` and `name`. Fewer than `num` clips if the
    split ends.
  """
  source = records.open_split(path, split)
  stop = None if num is None else start + num
  examples = [source[i] for i in range(len(source))[start:stop]]
  shapes = records.read_metadata(path)["shapes"]
  clips = {
    name: x if x.dtype == bool else x.astype(np.float32)
    for name, x in _stack(examples, len(examples), shapes).items()
  }
  texts = {n: [e[n] for e in examples] for n in ("caption", "name")}
  return clips | {"null_text": read_null_text(path)} | texts


def read_null_text(path: epath.PathLike) -> Float[np.ndarray, "l d"]:
  """Returns the embedding of the empty prompt."""
  with (epath.Path(path) / "null_text.npy").open("rb") as file:
    return np.load(file)


def _stack(
  examples: Iterable[dict[str, Any]], num: int, shapes: Shapes
) -> dict[str, np.ndarray]:
  """Returns arrays of `shapes`: longer examples are cut, shorter ones padded.

  Each example is read, copied to its row and dropped before the next: at the
  paper's sizes the time goes into allocating memory.
  """
  batch = {k: np.empty((num, *shapes[k]), np.float16) for k in shapes}
  batch |= {k: np.empty(num, bool) for k in _FLAGS}
  for row, example in enumerate(examples):
    for name, (length, *_) in shapes.items():
      x = example[name][:length]
      batch[name][row, : len(x)] = x
      batch[name][row, len(x) :] = 0
    for name in _FLAGS:
      batch[name][row] = example[name]
  return batch

"""Batches of latents as a pure function of (data, seed, step).

Example i of the endless stream is record p_e(i mod N), where p_e permutes the N
records anew in every epoch e; batch t holds examples t b .. t b + b - 1. The
state of the data is therefore one integer, the step, and each of several hosts
reads its own rows of the same global batch and no others. Grain supplies the
permutation; its iterators hold state of their own, so they are not used.
`mixture` makes one stream of several data sets.

If clips have several shapes, each shape has a stream. Step t takes the next
batch of one of them, in a fixed interleaving (`grain.MapDataset.mix`).

Where records store a variance, example i is sampled anew in every epoch,

    mean + exp(logvar / 2) noise(seed, i)                                    (1)

with noise from a counter-based generator whose key is (seed, i), so the noise
is identical on every host and after every restart.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import grain
import numpy as np
from etils import epath
from jaxtyping import Float

from ccl_jax.array_types import STREAMS
from ccl_jax.config import check_choice
from ccl_jax.data import records
from ccl_jax.data.clip import ClipShape
from ccl_jax.data.mixture import Mixture, Shapes, list_sources
from ccl_jax.storage.files import read_arrays

_MANY = 2**56  # more than a run has steps
_FLAGS = ("has_video", "has_audio")


def count_latents(shapes: Shapes) -> int:
  """Returns the number of latent vectors of a clip."""
  return math.prod(shapes["video"][:-1]) + math.prod(shapes["audio"][:-1])


class Loader:
  """Batches of one split of a data set, or of a mixture of some, by step.

  Args:
    path: the data set.
    split: of it.
    sources: path and weight of each of several data sets, instead of `path`:
      a share of the examples in proportion to its weight is drawn from it.
    batch_size: clips in the global batch.
    batch_tokens: instead, tokens in it: as many clips of a shape as have no
      more; 0 takes `batch_size` of each shape.
    bucket_shares: how often a clip is drawn beside those of other shapes:
      "samples", as often as each; "tokens", as often as it has tokens.
    seed: of the order, and of (1).
    shuffle: use a new order in each epoch, else the order of the records.
    num_threads: threads that prepare the next batches; 0 prepares none ahead.
    rows: the rows of the global batch that this host reads, or a function from
      its size to them; None reads all.
    sample_posterior: sample latents that have a variance by (1), else take
      their mean.
    count_tokens: returns the tokens of a clip of some shapes.
    multiple_of: clips in a batch of `batch_tokens` are a multiple of it.

  Raises:
    ValueError: no such data set or split; sets or weights that cannot be mixed;
      rows outside the batch; fewer tokens than a clip has.
  """

  def __init__(
    self,
    path: epath.PathLike = "",
    split: str = "train",
    *,
    sources: Sequence[Any] = (),
    batch_size: int,
    batch_tokens: int = 0,
    bucket_shares: str = "samples",
    seed: int = 0,
    shuffle: bool = True,
    num_threads: int = 0,
    rows: Sequence[int] | Callable[[int], Sequence[int]] | None = None,
    sample_posterior: bool = True,
    count_tokens: Callable[[Shapes], float] = count_latents,
    multiple_of: int = 1,
  ):
    check_choice("data.bucket_shares", bucket_shares, ("samples", "tokens"))
    chosen = list_sources(path, sources)
    self.mixture = Mixture(
      chosen, split, seed if shuffle else None,
      count_tokens if bucket_shares == "tokens" else None,
    )  # fmt: skip
    metadata = [records.read_metadata(source.path) for source in chosen]
    samples = sample_posterior and any(x.get("logvar") for x in metadata)
    self._noise_seed = seed if samples else None
    self._null_text = read_null_text(chosen[0].path)
    self.buckets, tokens = self.mixture.buckets, batch_tokens
    self.batch_sizes = [
      fit_batch(b.clip, count_tokens(b.shapes), tokens, multiple_of)
      if tokens
      else batch_size
      for b in self.buckets
    ]
    self._rows = [_check_rows(rows, size) for size in self.batch_sizes]
    sizes = zip(self.buckets, self.batch_sizes, strict=True)
    steps = [bucket.share / size for bucket, size in sizes]
    self._shares = [x / sum(steps) for x in steps]  # of each bucket
    self._order = _interleave(self._shares)
    if num_threads < 0:
      raise ValueError(f"data.{num_threads=}: expected at least 0.")
    self._batches = _Prefetcher(self._load, num_threads)

  def batch_at(self, step: int) -> dict[str, np.ndarray]:
    """Returns this host's rows of the batch of a step.

    float16, as it is stored, video (b, f, h, w, c), audio (b, m, c) and text
    (b, l, d); float32 null_text (l, d); bool has_video and has_audio (b,). A
    stream that a clip lacks is zeros.
    """
    return self._batches(step)

  def bucket_at(self, step: int) -> int:
    """Returns the bucket, an index of `buckets`, of a step."""
    return self._order[step][0]

  def names_at(self, step: int) -> list[str]:
    """Returns the names of the clips of `batch_at(step)`."""
    k, indices = self._indices(step)
    return [self.buckets[k].examples[i]["name"] for i in indices]

  def progress_at(self, step: int) -> dict[str, float]:
    """Returns the weight and the epochs of each data set before a step."""
    sizes = zip(self._shares, self.batch_sizes, strict=True)
    return self.mixture.progress([step * share * size for share, size in sizes])

  def _indices(self, step: int) -> tuple[int, list[int]]:
    """Returns the bucket of a step, and the places of its examples there."""
    k, before = self._order[step]
    return k, [before * self.batch_sizes[k] + row for row in self._rows[k]]

  def _load(self, step: int) -> dict[str, np.ndarray]:
    k, indices = self._indices(step)
    examples = (self._example(k, i) for i in indices)
    batch = _stack(examples, len(indices), self.buckets[k].shapes)
    return batch | {"null_text": self._null_text}

  def _example(self, k: int, index: int) -> dict[str, Any]:
    example = self.buckets[k].examples[index]
    if self._noise_seed is None:
      return example
    # Each bucket counts its own examples.
    return sample_posterior(example, self._noise_seed, index + k * _MANY)


def _interleave(shares: Sequence[float]) -> grain.MapDataset:
  """Returns step -> its bucket, and how many steps that has had before."""
  steps = [
    grain.MapDataset.range(_MANY).map(lambda j, k=k: (k, j))
    for k in range(len(shares))
  ]
  return grain.MapDataset.mix(steps, shares)


class _Prefetcher:
  """A function of the step, whose next values threads compute ahead."""

  def __init__(self, load: Callable[[int], Any], num_threads: int):
    self._load, self._num_threads = load, num_threads
    self._threads = ThreadPoolExecutor(num_threads) if num_threads else None
    self._pending: dict[int, Future] = {}

  def __call__(self, step: int) -> Any:
    """Returns the value of a step."""
    if self._threads is None:
      return self._load(step)
    # This step and the next ones. Other steps that are pending are dropped:
    # they are left over from before a jump to another step.
    self._pending = {
      s: self._pending.get(s) or self._threads.submit(self._load, s)
      for s in range(step, step + self._num_threads + 1)
    }
    return self._pending.pop(step).result()


def fit_batch(
  clip: ClipShape, tokens: float | int, budget: int, multiple_of: int = 1
) -> int:
  """Returns the number of clips of a shape that have at most `budget` tokens.

  It is a multiple of `multiple_of`, if it is as large. One clip has `tokens`.

  Raises:
    ValueError: these are more than the budget.
  """
  size = int(budget // tokens)
  if size < 1:
    raise ValueError(
      f"data.batch_tokens is {budget}: a clip of {clip} (frames x y x x) has"
      f" {tokens:.0f} tokens, expected at least as many."
    )
  return size - size % multiple_of if size >= multiple_of else size


def _check_rows(
  rows: Sequence[int] | Callable[[int], Sequence[int]] | None, batch_size: int
) -> Sequence[int]:
  """Returns the rows of a batch; ValueError if it has no such rows."""
  if callable(rows):
    rows = rows(batch_size)
  rows = range(batch_size) if rows is None else rows
  if batch_size < 1 or not rows or min(rows) < 0 or max(rows) >= batch_size:
    raise ValueError(f"{rows=} are not rows of a batch: {batch_size=}.")
  return rows


def sample_posterior(
  example: dict[str, Any], seed: int, index: int
) -> dict[str, Any]:
  """Returns the example with latents sampled by (1) where it has a variance.

  Args:
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
  return read_arrays(epath.Path(path) / "null_text.npy")[""]


def _stack(
  examples: Iterable[dict[str, Any]], num: int, shapes: Shapes
) -> dict[str, np.ndarray]:
  """Returns arrays of `shapes`: longer examples are cut, shorter ones padded.

  Each example is read, copied to its row and dropped before the next: at the
  paper's sizes the time goes into allocating memory.
  """
  batch = {k: np.zeros((num, *shapes[k]), np.float16) for k in shapes}
  batch |= {k: np.empty(num, bool) for k in _FLAGS}
  for row, example in enumerate(examples):
    for name, (length, *_) in shapes.items():
      x = example[name][:length]
      batch[name][row, : len(x)] = x
    for name in _FLAGS:
      batch[name][row] = example[name]
  return batch

"""Batches of latents as a pure function of (data, seed, step).

Example i of the endless stream is record p_e(i mod N), where p_e permutes the N
records anew in every epoch e; batch t holds examples t b .. t b + b - 1. So the
whole state of the data is one integer, the step, and each of several hosts can
take its own rows of the same global batch.
"""

import os
import pathlib
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import grain
import numpy as np

from ccl_jax.data import records


class Loader:
  """Batches by step; make one with `make_loader`."""

  def __init__(
    self,
    examples: grain.MapDataset,
    null_text: np.ndarray,
    batch: int,
    part: tuple[int, int],
    workers: int,
  ):
    self._examples, self._null_text = examples, null_text
    self._batch, self._part, self._ahead = batch, part, workers
    self._threads = ThreadPoolExecutor(workers) if workers else None
    self._pending: dict[int, Future] = {}

  def batch_at(self, step: int) -> dict[str, np.ndarray]:
    """This host's part of the batch of a step.

    Returns:
      float32 video (b, f, h, w, c), audio (b, m, c), text (b, l, d) and
      null_text (l, d); bool has_video and has_audio (b,). A stream that a clip
      lacks is zeros.
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
    return [self._examples[i]["name"] for i in self._rows(step)]

  def _rows(self, step: int) -> range:
    index, count = self._part
    share = self._batch // count
    start = step * self._batch + index * share
    return range(start, start + share)

  def _make(self, step: int) -> dict[str, np.ndarray]:
    batch = _stack([self._examples[i] for i in self._rows(step)])
    arrays = {k: v for k, v in batch.items() if isinstance(v, np.ndarray)}
    return arrays | {"null_text": self._null_text}


def make_loader(
  path: str | os.PathLike,
  split: str = "train",
  *,
  batch: int,
  seed: int = 0,
  shuffle: bool = True,
  workers: int = 0,
  part: tuple[int, int] = (0, 1),
) -> Loader:
  """A loader of the records in `path`.

  Args:
    batch: clips in the global batch.
    shuffle: a new order in each epoch, else the order of the records.
    workers: how many threads prepare batches ahead; 0 prepares when asked.
    part: (index, count) of this host; it gets batch / count rows.

  Raises:
    ValueError: no such records or split; a batch that hosts cannot share.
  """
  index, count = part
  if batch < 1 or batch % count or not 0 <= index < count:
    raise ValueError(f"{batch=} cannot be shared by hosts as {part=}.")
  examples = _examples(path, split)
  if shuffle:
    examples = examples.shuffle(seed)
  return Loader(examples.repeat(), null_text(path), batch, part, workers)


def read_clips(
  path: str | os.PathLike, split: str, num: int | None = None
) -> dict[str, Any]:
  """The first `num` clips of a split (all if None or if there are fewer).

  Returns:
    The arrays of `Loader.batch_at` without null_text, and the lists `caption`
    and `name`.
  """
  examples = _examples(path, split)
  return _stack([examples[i] for i in range(len(examples))[:num]])


def null_text(path: str | os.PathLike) -> np.ndarray:
  """The embedding of the empty prompt, (l, d) float32."""
  return np.load(pathlib.Path(path) / "null_text.npy")


def _examples(path, split: str) -> grain.MapDataset:
  """Records as the model takes them, in the order they were written."""
  shapes = records.read_metadata(path)["shapes"]

  def fit(record):
    arrays = {
      name: records.pad(record[name].astype(np.float32), length)
      for name, (length, *_) in shapes.items()
    }
    flags = {name: bool(record[name]) for name in ("has_video", "has_audio")}
    names = {name: record[name].decode() for name in ("caption", "name")}
    return arrays | flags | names

  return grain.MapDataset.source(records.open_split(path, split)).map(fit)


def _stack(examples: list[dict[str, Any]]) -> dict[str, Any]:
  """Arrays and flags are stacked; names stay lists."""
  return {
    key: [e[key] for e in examples]
    if isinstance(value, str)
    else np.stack([e[key] for e in examples])
    for key, value in examples[0].items()
  }

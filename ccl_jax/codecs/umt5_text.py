"""Prompts -> vectors by umT5, many at a time.

Prompts are sorted by length and padded to one of a few lengths, so that little
is compiled and little is computed in vain; padding is masked, and cut off what
comes back. Weights and tokenizer are read when they are first used: a data set
of latents can be trained on where they are not.
"""

import functools
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float

from ccl_jax.array_types import Array, PyTree
from ccl_jax.codecs import converted_weights, umt5
from ccl_jax.codecs.tokenizer import Tokenizer, open_tokenizer
from ccl_jax.sharding import ONE_DEVICE, Layout, put_rows

LENGTHS = (32, 64, 128, 256, 512)


class UMT5TextCodec:
  """The TextCodec of Wan: umT5-xxl, up to 512 tokens, 4096 wide.

  Args:
    weights: folder written by the converter.
    tokenizer: `spiece.model` or `tokenizer.json`, or a folder with one.
    max_length: prompts are cut to as many tokens, the end among them.
    batch_tokens: padded tokens that go through the model at once.
    width: of the vectors; None asks `weights`.
    layout: whose mesh, of this process's devices, prompts are spread over.

  Raises:
    ValueError: max_length or batch_tokens below 1.
  """

  def __init__(
    self,
    weights: str,
    tokenizer: str,
    max_length: int = 512,
    batch_tokens: int = 16_384,
    width: int | None = None,
    layout: Layout = ONE_DEVICE,
  ):
    if max_length < 1 or batch_tokens < 1:
      raise ValueError(f"{max_length=} and {batch_tokens=} must be positive.")
    self.weights, self.tokenizer_path = str(weights), str(tokenizer)
    self.max_length, self.batch_tokens = max_length, batch_tokens
    self.layout = umt5.make_layout(layout.mesh)
    self.width = self.sizes.width if width is None else width

  def settings(self) -> dict[str, int | float | str]:
    return dict(
      weights=self.weights,
      tokenizer=self.tokenizer_path,
      max_length=self.max_length,
      batch_tokens=self.batch_tokens,
      width=self.width,
    )

  def arrays(self) -> dict[str, np.ndarray]:
    return {}

  @functools.cached_property
  def sizes(self) -> umt5.Settings:
    """The model's sizes."""
    return umt5.Settings(**converted_weights.about(self.weights)["settings"])

  @functools.cached_property
  def params(self) -> PyTree:
    """The model's parameters, on the devices."""
    return converted_weights.read(
      self.weights, umt5.describe(self.sizes, self.layout)[1]
    )

  @functools.cached_property
  def tokenizer(self) -> Tokenizer:
    """Raises ValueError if it has more tokens than the model."""
    tokenizer = open_tokenizer(self.tokenizer_path)
    if tokenizer.size > self.sizes.vocab:
      raise ValueError(
        f"{self.tokenizer_path} has {tokenizer.size} tokens, the model in"
        f" {self.weights} {self.sizes.vocab}: they are not of one model."
      )
    return tokenizer

  def num_tokens(self, text: str) -> int:
    """Tokens of `text` with its end; beyond `max_length` they are cut."""
    return len(self.tokenizer(text))

  def encode(self, text: str) -> Float[np.ndarray, "l d"]:
    """One vector per token; the last is always the end."""
    return self.encode_all([text])[0]

  def encode_all(self, texts: Sequence[str]) -> list[Float[np.ndarray, "_ d"]]:
    """Each prompt's vectors, (its tokens, d) float32, in the given order."""
    ids = [self.tokenizer(text, self.max_length) for text in texts]
    vectors: list = [None] * len(texts)
    waiting: tuple[list[int], Array] | None = None

    def collect():
      if waiting is not None:
        for i, x in zip(waiting[0], np.asarray(waiting[1]), strict=False):
          vectors[i] = x[: len(ids[i])].copy()

    # The device works on a batch while the last one comes back.
    for chosen, length in self.batches([len(x) for x in ids]):
      out = self.run([ids[i] for i in chosen], length)
      collect()
      waiting = chosen, out
    collect()
    return vectors

  def batches(self, lengths: Sequence[int]) -> Iterator[tuple[list[int], int]]:
    """(indices of prompts, the length to pad them to) of every batch."""
    steps = [x for x in LENGTHS if x < self.max_length] + [self.max_length]
    for low, high in zip([0, *steps], steps, strict=False):
      members = [i for i, x in enumerate(lengths) if low < x <= high]
      size = max(1, self.batch_tokens // high)
      for start in range(0, len(members), size):
        yield members[start : start + size], high

  def run(self, ids: list[list[int]], length: int) -> Array:
    """One batch; rows are added up to a power of two for every shard."""
    shards = self.layout.batch_shards()
    per_shard = -(-len(ids) // shards)
    rows = shards * (1 << (per_shard - 1).bit_length())
    tokens = np.zeros((rows, length), np.int32)
    lengths = np.ones(rows, np.int32)
    for i, x in enumerate(ids):
      tokens[i, : len(x)], lengths[i] = x, len(x)
    tokens, lengths = (
      put_rows(self.layout, rows, range(rows), x) for x in (tokens, lengths)
    )
    return umt5.encode(
      self.params, tokens, lengths, settings=self.sizes, layout=self.layout
    )

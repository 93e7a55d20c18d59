"""Prompts -> vectors by umT5, in batches.

Prompts are sorted by length and padded to one of a few lengths, so that few
programs are compiled and little padding is computed. Padding is masked, and cut
off the result. Weights and tokenizer are read at their first use, so training
on encoded data does not need them.
"""

import functools
from collections.abc import Iterator, Sequence
from itertools import chain, pairwise

import jax
import numpy as np
from jaxtyping import Float

from ccl_jax.array_types import Array
from ccl_jax.codecs import runner, umt5
from ccl_jax.codecs.tokenizer import Tokenizer, open_tokenizer
from ccl_jax.params.sharding import ONE_DEVICE, Layout

LENGTHS = (32, 64, 128, 256, 512)


class UMT5TextCodec(runner.LearnedCodec):
  """Wan's text encoder: umT5-xxl, up to 512 tokens of 4096 channels.

  Args:
    weights, layout: see the base class.
    tokenizer: `spiece.model` or `tokenizer.json`, or a folder with one.
    max_length: prompts are cut to this number of tokens, with the end token.
    batch_tokens: tokens, with padding, of a batch.
    width: of the vectors; None reads it from `weights`.

  Raises:
    ValueError: max_length or batch_tokens below 1.
  """

  module, config_class = umt5.UMT5, umt5.UMT5Config
  rules = umt5.UMT5_RULES

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
    super().__init__(weights, layout)
    self.tokenizer = str(tokenizer)
    self.max_length, self.batch_tokens = max_length, batch_tokens
    self.width = self.config.width if width is None else width

  @functools.cached_property
  def tokenize(self) -> Tokenizer:
    """Opens the tokenizer; ValueError if unreadable or of too many tokens."""
    tokenize = open_tokenizer(self.tokenizer)
    if tokenize.size > self.config.vocab:
      raise ValueError(
        f"{self.tokenizer} has {tokenize.size} tokens, the model in"
        f" {self.weights} {self.config.vocab}: they are not of one model."
      )
    return tokenize

  def num_tokens(self, text: str) -> int:
    """Returns the number of tokens with the end token, before any cut."""
    return len(self.tokenize(text))

  def encode(self, text: str) -> Float[np.ndarray, "l d"]:
    """Returns one vector per token; the last token is always the end."""
    return self.encode_all([text])[0]

  def encode_all(self, texts: Sequence[str]) -> list[Float[np.ndarray, "_ d"]]:
    """Returns `encode` of each prompt, in float32."""
    ids = [self.tokenize(text, self.max_length) for text in texts]
    vectors: list = [None] * len(texts)
    batches = (
      (chosen, self.encode_batch([ids[i] for i in chosen], length))
      for chosen, length in self.make_batches([len(x) for x in ids])
    )
    # The device computes the next batch while one is copied.
    for (chosen, rows), _ in pairwise(chain(batches, [None])):
      for i, x in zip(chosen, np.asarray(rows), strict=False):
        vectors[i] = x[: len(ids[i])].copy()
    return vectors

  def make_batches(
    self, lengths: Sequence[int]
  ) -> Iterator[tuple[list[int], int]]:
    """Yields (indices of prompts, length to pad them to) of every batch."""
    padded = [x for x in LENGTHS if x < self.max_length] + [self.max_length]
    for low, high in pairwise([0, *padded]):
      members = [i for i, x in enumerate(lengths) if low < x <= high]
      size = max(1, self.batch_tokens // high)
      for start in range(0, len(members), size):
        yield members[start : start + size], high

  def encode_batch(self, ids: list[list[int]], length: int) -> Array:
    """Returns the vectors of one batch, on the devices.

    Rows are added up to a power of two for every shard, so that few programs
    are compiled.
    """
    shards = self.layout.batch_shards()
    per_shard = -(-len(ids) // shards)
    rows = shards * (1 << (per_shard - 1).bit_length())
    tokens = np.zeros((rows, length), np.int32)
    lengths = np.ones(rows, np.int32)
    for i, x in enumerate(ids):
      tokens[i, : len(x)], lengths[i] = x, len(x)
    tokens, lengths = jax.device_put((tokens, lengths), self.layout.rows())
    return umt5.encode(
      self.params, tokens, lengths, config=self.config, layout=self.layout
    )

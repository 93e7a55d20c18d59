"""Text embeddings without a language model: a fixed vector per word.

  e_i = hash(word_i) + position(i) + [inside quotation marks] * spoken

Words, numbers, punctuation and quotation marks are tokens; "</s>" is the last.
hash is a vector of mean 0 and deviation 1 made from SHAKE-256 of the word, the
same on every machine; position is the usual sinusoid; `spoken` separates words
that are said from those that describe.
"""

import dataclasses
import functools
import hashlib
import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from ccl_jax.codecs.quotation import normalize_quotes

_TOKEN = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*|\d+|[^\w\s]|_")
_END = "</s>"


@dataclasses.dataclass(frozen=True)
class HashedText:
  """Prompts -> (length, width) float32, at most `max_length` tokens long."""

  width: int
  max_length: int

  def __post_init__(self):
    if self.width < 2 or self.width % 2 or self.max_length < 1:
      raise ValueError(
        f"{self.width=} must be even and positive, {self.max_length=} positive."
      )

  def num_tokens(self, text: str) -> int:
    """Returns the number of tokens with the end token, before any cut."""
    return len(_tokens(text)) + 1

  def encode(self, text: str) -> Float[np.ndarray, "l d"]:
    """Returns one vector per token; the last token is always the end."""
    words = [*_tokens(text)[: self.max_length - 1], _END]
    vectors = np.stack([_hashed(word, self.width) for word in words])
    quotes = np.cumsum([word == '"' for word in words]) % 2 == 1
    spoken = quotes & np.array([word != '"' for word in words])
    vectors[spoken] += _hashed("<spoken>", self.width)
    return vectors + _positions(len(words), self.width)

  def encode_all(self, texts: Sequence[str]) -> list[Float[np.ndarray, "_ d"]]:
    """Returns `encode` of each prompt."""
    return [self.encode(text) for text in texts]

  def arrays(self) -> dict[str, np.ndarray]:
    return {}

  def settings(self) -> dict[str, int]:
    return dataclasses.asdict(self)


def _tokens(text: str) -> list[str]:
  text = normalize_quotes(text).replace("\u2019", "'")
  return _TOKEN.findall(text.lower())


@functools.lru_cache(maxsize=100_000)
def _hashed(word: str, width: int) -> Float[np.ndarray, " d"]:
  """Returns values that are uniform on 256 levels, with deviation 1."""
  digest = hashlib.shake_256(word.encode()).digest(width)
  levels = np.frombuffer(digest, np.uint8).astype(np.float32) - 127.5
  return levels / np.sqrt((256**2 - 1) / 12).astype(np.float32)


def _positions(length: int, width: int) -> Float[np.ndarray, "l d"]:
  rates = 10_000.0 ** -(np.arange(width // 2) / (width // 2))
  angles = np.arange(length)[:, None] * rates
  return np.concatenate([np.sin(angles), np.cos(angles)], 1).astype(np.float32)

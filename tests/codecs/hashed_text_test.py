"""Words are fixed vectors, with positions and a mark for speech."""

import numpy as np
import pytest

from ccl_jax.codecs.hashed_text import HashedText

TEXT = HashedText(width=64, max_length=12)


def distance(one, other):
  return np.sqrt(np.square(one - other).mean())


def test_tokens_are_words_numbers_punctuation_and_an_end():
  assert TEXT.num_tokens("It's 25 fps.") == 5
  assert TEXT.num_tokens("") == 1
  assert TEXT.encode("It's 25 fps.").shape == (5, 64)


def test_many_are_encoded_as_one_by_one():
  texts = ["red dog", "", "word " * 30]
  for text, vectors in zip(texts, TEXT.encode_all(texts), strict=True):
    np.testing.assert_array_equal(vectors, TEXT.encode(text))


def test_a_word_is_the_same_wherever_it_stands_but_for_its_position():
  one, two = TEXT.encode("red dog"), TEXT.encode("blue dog")
  np.testing.assert_array_equal(one[1], two[1])
  assert distance(one[0], two[0]) > 0.5
  swapped = TEXT.encode("dog red")
  assert distance(one, swapped) > 0.5
  np.testing.assert_array_equal(TEXT.encode("Red DOG"), one)


def test_words_have_deviation_one():
  words = TEXT.encode(" ".join("abcdefghijk"))
  without_position = words - TEXT.encode("z " * 11)
  # The difference of two independent words has deviation sqrt(2).
  assert abs(without_position[:11].std() - np.sqrt(2)) < 0.15


def test_spoken_words_differ_from_described_ones():
  said, plain = TEXT.encode('a "hello" b'), TEXT.encode("a , hello , b")
  assert distance(said[2], plain[2]) > 0.5
  np.testing.assert_array_equal(said[0], plain[0])
  np.testing.assert_array_equal(said[4], TEXT.encode("c , d , b")[4])
  np.testing.assert_array_equal(TEXT.encode("a \u201chello\u201d b"), said)


def test_long_prompts_are_cut_and_keep_their_end():
  long = "word " * 30
  assert TEXT.num_tokens(long) == 31
  encoded = TEXT.encode(long)
  assert encoded.shape == (12, 64)
  np.testing.assert_array_equal(encoded[-1], TEXT.encode("other " * 11)[-1])


def test_values_are_fixed_for_ever():
  # Data that are encoded today are sampled from with prompts of tomorrow.
  first = HashedText(width=4, max_length=2).encode("face")
  np.testing.assert_allclose(first[0], FACE, atol=1e-3)


FACE = [1.5764, -0.1556, -0.2788, 2.4682]


@pytest.mark.parametrize("sizes", [(3, 4), (0, 4), (4, 0)])
def test_impossible_sizes_are_refused(sizes):
  with pytest.raises(ValueError, match="must be even"):
    HashedText(*sizes)

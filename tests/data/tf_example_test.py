"""tf.train.Example messages, read and sorted without protobuf."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from ccl_jax.data import tf_example


def field(number, content):
  assert len(content) < 128
  return bytes([8 * number + 2, len(content)]) + content


def entry(name, content):
  feature = field(1, field(1, content))
  return field(1, field(1, name) + field(2, feature))


def test_entries_come_by_name_whatever_their_order():
  entries = [entry(b"b", b"two"), entry(b"a", b""), entry(b"ab", b"\0" * 9)]
  one = field(1, b"".join(entries))
  other = field(1, b"".join(reversed(entries)))
  made = tf_example.sort_features(one)
  assert made == tf_example.sort_features(other)
  assert list(tf_example.parse(made)) == ["a", "ab", "b"]
  assert tf_example.parse(made) == tf_example.parse(one)


@pytest.mark.parametrize("size", [0, 1, 127, 128, 300, 16_383, 16_384, 2**21])
def test_long_contents_keep_their_length(size):
  """As protobuf writes and reads them."""
  features = tfds.features.FeaturesDict(
    {"text": tfds.features.Text(), "flag": tfds.features.Scalar(np.int64)}
  )
  values = {"text": b"x" * size, "flag": 3 * size}
  made = tf_example.sort_features(features.serialize_example(values))
  assert tf_example.parse(made) == {"flag": [3 * size], "text": b"x" * size}
  assert features.deserialize_example_np(made) == values

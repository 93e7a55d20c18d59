import pytest

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
  assert tf_example.ordered(one) == tf_example.ordered(other)
  assert list(tf_example.parse(tf_example.ordered(one))) == ["a", "ab", "b"]
  assert tf_example.parse(tf_example.ordered(one)) == tf_example.parse(one)


@pytest.mark.parametrize("size", [0, 1, 127, 128, 300, 16_383, 16_384, 2**21])
def test_long_contents_keep_their_length(size):
  made = tf_example._field(1, bytes(size))
  ((number, content),) = tf_example._fields(memoryview(made))
  assert number == 1 and len(content) == size

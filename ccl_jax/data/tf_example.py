"""`tf.train.Example` messages, read without copying the bytes in them.

Protobuf and TFDS copy every array three times, which would take a third of the
loading time. Only one kind of field of protobuf's wire format occurs here, the
length-delimited field (wire type 2),

    field = varint(8 * number + 2)  varint(size)  size bytes                 (1)

    Example  {1: Features}          Feature {1: BytesList or 3: Int64List}
    Features {1: entry, 1: ...}     BytesList {1: bytes}
    entry    {1: name, 2: Feature}  Int64List {1: varints}
"""

from collections.abc import Iterator

Value = memoryview | list[int]


def parse(record: bytes) -> dict[str, Value]:
  """Returns name -> bytes (views into `record`) or integers.

  Raises:
    ValueError: not a tf.train.Example, or one with other kinds of values.
  """
  values: dict[str, Value] = {}
  for _, features in _fields(memoryview(record)):
    for _, entry in _fields(features):
      key_and_value = dict(_fields(entry))
      name = bytes(key_and_value[1]).decode()
      ((kind, content),) = _fields(key_and_value[2])
      ((_, value),) = _fields(content)
      if kind not in (1, 3):
        raise ValueError(f"Feature '{name}' is neither bytes nor integers.")
      values[name] = value if kind == 1 else list(varints(value))
  return values


def sort_features(record: bytes) -> bytes:
  """Returns the same message with its features sorted by name.

  Protobuf writes a map in an order that changes from process to process.
  """
  ((_, features),) = _fields(memoryview(record))
  entries = [content for _, content in _fields(features)]
  entries.sort(key=lambda entry: bytes(dict(_fields(entry))[1]))
  return _field(b"".join(_field(entry) for entry in entries))


def _field(content: bytes | memoryview) -> bytes:
  """Encodes a field of number 1, eq. 1."""
  size, prefix = len(content), [8 + 2]
  while size > 127:
    prefix.append(size & 127 | 128)
    size >>= 7
  return b"".join((bytes([*prefix, size]), content))


def _fields(view: memoryview) -> Iterator[tuple[int, memoryview]]:
  """Yields number and content of every field, eq. 1."""
  start = 0
  while start < len(view):
    tag, start = varint(view, start)
    size, start = varint(view, start)
    if tag & 7 != 2 or start + size > len(view):
      raise ValueError("Not a tf.train.Example, or a truncated one.")
    yield tag >> 3, view[start : start + size]
    start += size


def varints(view: memoryview) -> Iterator[int]:
  """Yields integers that follow one another."""
  start = 0
  while start < len(view):
    value, start = varint(view, start)
    yield value


def varint(view: memoryview, start: int) -> tuple[int, int]:
  """Returns a varint and the position after it.

  Each byte holds seven bits, the lowest first, and a flag: more bytes follow.
  """
  value = shift = 0
  while True:
    byte = view[start]
    value |= (byte & 127) << shift
    start, shift = start + 1, shift + 7
    if byte < 128:
      return value, start

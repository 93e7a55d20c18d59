"""ArrayRecord files in a bucket, read record by record without a copy.

The library reads local files only. A file is in Riegeli's format: blocks of
64 KiB that each begin with a header of 24 bytes, and chunks that run through
the blocks, with a header of 40 bytes followed by the data:

    chunk   [24] 'r'   [25:32] number of records   [40] 0, not compressed
            varint n, n bytes with the varint length of each record, the records
    file    signature, a chunk of one record each, the footer, padding,
            a last block with a chunk that says where the footer begins
    footer  a chunk: metadata, then (offset, size, number) of each chunk above

`shards` writes such files, with "group_size:1,uncompressed". Opening a file
takes two requests, and reading a record one.
"""

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import fsspec

from ccl_jax.data import tf_example

_BLOCK, _BLOCK_HEADER, _CHUNK_HEADER = 2**16, 24, 40
_OFFSET, _NUMBER = 8, 24  # tags of an entry of the footer, as of protobuf
_THREADS = 16


class BucketRecords(Sequence):
  """The records of some files in order; ValueError if cut or compressed."""

  def __init__(self, paths: Sequence[str]):
    with ThreadPoolExecutor(_THREADS) as pool:  # each is a slow request
      places = list(pool.map(_open, paths))
    self._spans = [
      (path, *span)
      for path, place in zip(paths, places, strict=True)
      for span in itertools.pairwise(place)
    ]

  def __len__(self) -> int:
    return len(self._spans)

  def __getitem__(self, index: int) -> bytes:
    path, begin, end = self._spans[index]
    (record,) = _parse_chunk(_read(path, begin, end))
    return bytes(record)


def _open(path: str) -> list[int]:
  """Returns where each record of a file begins, and where the last one ends."""
  try:
    postscript, *_ = _parse_chunk(_read(path, -_BLOCK, None))
    footer = _fields(postscript)[_OFFSET]
    _, *entries = _parse_chunk(_read(path, footer, -_BLOCK))
    found = [_fields(entry) for entry in entries]
    if any(entry[_NUMBER] != 1 for entry in found):
      raise ValueError("groups of records")
  except (IndexError, KeyError, ValueError) as error:
    raise ValueError(
      f"'{path}' cannot be read in its bucket: it is cut short, or not an"
      " uncompressed file of python -m ccl_jax.encode. Copy the data set to a"
      " disk, or encode it again."
    ) from error
  return [*(entry[_OFFSET] for entry in found), footer]


def _read(path: str, begin: int, end: int | None) -> bytes:
  """Returns a part of a file without the headers of its blocks.

  Those of the last block count from the end: `begin` or `end` may be -_BLOCK.
  """
  file_system, name = fsspec.core.url_to_fs(path)
  data = file_system.cat_file(name, start=begin, end=end)
  first = begin % _BLOCK
  parts = [data[max(0, _BLOCK_HEADER - first) : _BLOCK - first]]
  for block in range(_BLOCK - first, len(data), _BLOCK):
    parts.append(data[block + _BLOCK_HEADER : block + _BLOCK])
  return b"".join(parts)


def _parse_chunk(data: bytes) -> list[memoryview]:
  """Returns the records of a chunk; ValueError or IndexError for others."""
  view = memoryview(data)
  if view[24] != ord("r") or view[_CHUNK_HEADER] != 0:
    raise ValueError("no chunk, or a compressed one")
  size, start = tf_example.varint(view, _CHUNK_HEADER + 1)
  lengths = list(tf_example.varints(view[start : start + size]))
  records, start = [], start + size
  for length in lengths:
    records.append(view[start : start + length])
    start += length
  if start > len(view):
    raise ValueError("a chunk is cut short")
  return records


def _fields(record: memoryview) -> dict[int, int]:
  """Returns tag -> value of a message of integers."""
  numbers = list(tf_example.varints(record))
  return dict(zip(numbers[::2], numbers[1::2], strict=True))

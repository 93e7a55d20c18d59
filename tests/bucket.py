"""A fake bucket: gs:// paths of this process are in its memory."""

import itertools
from typing import ClassVar

import fsspec
from etils import epath
from fsspec.implementations.memory import MemoryFileSystem

_numbers = itertools.count()


class Bucket(MemoryFileSystem):
  """A stand-in for gcsfs, as far as `etils.epath` calls it."""

  protocol = ("gs", "gcs")
  store: ClassVar[dict] = {}
  pseudo_dirs: ClassVar[list] = [""]

  def __init__(self, finalize_on_close=True, **kwargs):
    super().__init__(**kwargs)

  @classmethod
  def _strip_protocol(cls, path):
    return super()._strip_protocol(path.removeprefix("gs://"))


def make() -> epath.Path:
  """Returns an empty gs://bucket-N."""
  for name in Bucket.protocol:
    fsspec.register_implementation(name, Bucket, clobber=True)
  return epath.Path(f"gs://bucket-{next(_numbers)}")

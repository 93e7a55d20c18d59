"""Fake buckets: gs:// paths lead to this process's memory, or to a folder."""

import itertools
import os
import sys
from typing import ClassVar

import fsspec
from etils import epath
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from tests.commands import finish, start

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


class Folder(LocalFileSystem):
  """A stand-in for gcsfs whose buckets are the folders in `root`."""

  protocol = ("gs", "gcs")
  root: ClassVar[str] = ""

  @classmethod
  def _strip_protocol(cls, path):
    path = os.fspath(path).removeprefix("gs://").strip("/")
    root = cls.root.strip("/")  # of what was listed
    return os.path.join(cls.root, path.removeprefix(root).strip("/"))


def use_folder(root):
  """Leads the gs:// paths of this process into a folder."""
  Folder.root = root
  for name in Folder.protocol:
    fsspec.register_implementation(name, Folder, clobber=True)


def call(root, module, *arguments):
  """Runs `ccl_jax.MODULE` with `use_folder`; see `tests.commands.call`."""
  program = (
    f"import runpy; from tests import bucket; bucket.use_folder({str(root)!r});"
    f" runpy.run_module('ccl_jax.{module}', None, '__main__', True)"
  )
  return finish(start(sys.executable, "-c", program, *arguments))

"""Files in tar archives, read in place: nothing is unpacked.

A tar is a row of members, each a header of 512 bytes and its data, so that a
member is a part of the archive's file. `list_members` finds where they begin.
"""

import contextlib
import dataclasses
import io
import os
import posixpath
import tarfile
from collections.abc import Iterator
from typing import Any, BinaryIO

from etils import epath

SUFFIX = ".tar"


@dataclasses.dataclass(frozen=True)
class TarMember(os.PathLike):
  """A file in a tar; its path is that of the tar and its own.

  Attributes:
    tar: the archive, on disk or in a bucket.
    name: of the member.
    offset, size: where its data are in the archive, in bytes.
  """

  tar: str
  name: str
  offset: int
  size: int

  def __fspath__(self) -> str:
    return f"{self.tar}/{self.name}"

  def __str__(self) -> str:
    return self.__fspath__()

  @contextlib.contextmanager
  def open(self) -> Iterator[BinaryIO]:
    """Yields a file that is read, and can be sought."""
    with epath.Path(self.tar).open("rb") as file:
      yield io.BufferedReader(_Part(file, self.offset, self.size))

  def read_bytes(self) -> bytes:
    with self.open() as file:
      return file.read()


def list_members(path: epath.PathLike) -> tuple[dict[str, TarMember], str]:
  """Returns the files in a tar by name, and what is wrong with it, or "".

  Of a tar that is cut short those are returned that are whole. Names that lead
  out of the tar, links and devices are left out; of two members of one name the
  last counts, as when it is unpacked.
  """
  path, members = epath.Path(path), {}
  try:
    with path.open("rb") as file:
      size = file.seek(0, io.SEEK_END)
      file.seek(0)
      problem = ""
      with tarfile.open(fileobj=file, mode="r:") as tar:
        try:
          for info in tar:
            if info.isreg() and info.offset_data + info.size > size:
              problem = _cut(members)
              break
            name = posixpath.normpath(info.name)
            is_inside = not name.startswith(("/", "../"))
            if info.isreg() and not info.issparse() and is_inside:
              members[name] = TarMember(
                os.fspath(path), name, info.offset_data, info.size
              )
        except tarfile.ReadError:
          problem = _cut(members)
        # A whole one ends with blocks of zeros.
        if not problem and tar.offset + tarfile.BLOCKSIZE > size:
          problem = _cut(members)
  except tarfile.ReadError as error:
    return {}, f"is no tar, or a compressed one: unpack it ({error})"
  except OSError as error:
    return {}, error.strerror or str(error)
  return members, problem


def _cut(members: dict[str, TarMember]) -> str:
  last = f", up to {list(members)[-1]}" if members else ""
  return (
    f"is a tar that is cut short or damaged: {len(members)} files of it are"
    f" whole{last}. Fetch it again for the others"
  )


class _Part(io.RawIOBase):
  """The part of a file from `offset` on that has `size` bytes."""

  def __init__(self, file: Any, offset: int, size: int):
    super().__init__()
    self._file, self._offset, self._size = file, offset, size
    self._position = 0

  def readable(self) -> bool:
    return True

  def seekable(self) -> bool:
    return True

  def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
    start = {
      io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size
    }  # fmt: skip
    self._position = max(start[whence] + offset, 0)
    return self._position

  def readinto(self, buffer) -> int:
    num = max(min(len(buffer), self._size - self._position), 0)
    self._file.seek(self._offset + self._position)
    data = self._file.read(num)
    buffer[: len(data)] = data
    self._position += len(data)
    return len(data)

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
from typing import Any, BinaryIO, NamedTuple

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

  __str__ = __fspath__

  @contextlib.contextmanager
  def open(self) -> Iterator[BinaryIO]:
    """Yields a file that is read, and can be sought."""
    with epath.Path(self.tar).open("rb") as file:
      yield io.BufferedReader(_Part(file, self.offset, self.size))

  def read_bytes(self) -> bytes:
    with self.open() as file:
      return file.read()


class Contents(NamedTuple):
  """What is in a tar.

  Attributes:
    members: name -> file.
    left_out: name -> why it cannot be read; folders are not among them.
    problem: what is wrong with the tar, or "".
  """

  members: dict[str, TarMember]
  left_out: dict[str, str]
  problem: str = ""


def list_members(path: epath.PathLike) -> Contents:
  """Returns the files in a tar.

  Of a tar that is cut short those are returned that are whole. A link is the
  file of the tar that it leads to. Other links, names that lead out of the tar
  and devices are left out; of two members of one name the last counts, as when
  it is unpacked.
  """
  index = _Index(os.fspath(path))
  try:
    with epath.Path(path).open("rb") as file:
      size = file.seek(0, io.SEEK_END)
      file.seek(0)
      with tarfile.open(fileobj=file, mode="r:") as tar:
        try:
          for info in tar:
            if info.isreg() and info.offset_data + info.size > size:
              raise tarfile.ReadError("the data of a file end before its size")
            index.add(info)
          # A whole one ends with blocks of zeros.
          is_cut = tar.offset + tarfile.BLOCKSIZE > size
        except tarfile.ReadError:
          is_cut = True
  except tarfile.ReadError as error:
    reason = f"is no tar, or a compressed one: unpack it ({error})"
    return Contents({}, {}, reason)
  except OSError as error:
    return Contents({}, {}, error.strerror or str(error))
  problem = ""
  if is_cut:
    last = f", up to {list(index.members)[-1]}" if index.members else ""
    problem = (
      f"is a tar that is cut short or damaged: {len(index.members)} files of it"
      f" are whole{last}. Fetch it again for the others"
    )
  index.follow_links()
  return Contents(index.members, index.left_out, problem)


class _Index:
  """What is in a tar by name; the links are followed at the end.

  Attributes:
    members, left_out: as in `Contents`.
  """

  def __init__(self, tar: str):
    self._tar, self._links = tar, {}
    self.members: dict[str, TarMember] = {}
    self.left_out: dict[str, str] = {}

  def add(self, info: tarfile.TarInfo) -> None:
    """Adds a member in place of those before it of the same name."""
    name = posixpath.normpath(info.name)
    if info.isdir():
      return
    # A hard link has the full name of the file that has it by now.
    is_link = info.islnk() or info.issym()
    folder = "" if info.islnk() else posixpath.dirname(name)
    target = posixpath.normpath(posixpath.join(folder, info.linkname))
    linked = self.members.get(target) if info.islnk() else None
    for entries in (self.members, self.left_out, self._links):
      entries.pop(name, None)
    if reason := _describe_problem(name, info):
      self.left_out[name] = reason
    elif linked:
      self.members[name] = dataclasses.replace(linked, name=name)
    elif is_link:
      self._links[name] = target
    else:
      self.members[name] = TarMember(
        self._tar, name, info.offset_data, info.size
      )

  def follow_links(self) -> None:
    """Makes links the files that they lead to, over other links or not."""
    for name, target in self._links.items():
      seen = {name}
      while target in self._links and target not in seen:
        seen.add(target)
        target = self._links[target]
      if target in self.members:
        self.members[name] = dataclasses.replace(
          self.members[target], name=name
        )
      else:
        reason = f"is a link to no file in the tar ({self._links[name]})"
        self.left_out[name] = reason


def _describe_problem(name: str, info: tarfile.TarInfo) -> str:
  """Returns why a member cannot be read whatever else is there, or ""."""
  if name.startswith("/"):
    return "has an absolute name in the tar"
  if name.split("/")[0] == "..":
    return "has a name that leads out of the tar"
  if info.issparse():
    return "is a sparse file: make the tar without --sparse"
  is_known = info.isreg() or info.islnk() or info.issym()
  return "" if is_known else "is no regular file"


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

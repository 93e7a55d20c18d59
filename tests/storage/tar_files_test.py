"""Files in tars, read in place."""

import io
import tarfile

import pytest

from ccl_jax.storage import files, text_files
from ccl_jax.storage.tar_files import list_members
from tests import bucket


def write(path, contents, format=tarfile.PAX_FORMAT):
  with (
    path.open("wb") as file,
    tarfile.open(fileobj=file, mode="w", format=format) as tar,
  ):
    for name, data in contents.items():
      info = tarfile.TarInfo(name)
      info.size = len(data)
      tar.addfile(info, io.BytesIO(data))
  return path


CONTENTS = {
  "a.mp4": b"12345" * 300,
  "b/c.txt": b"text",
  "a" * 200: b"",
  "é": b"1",
}


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_members_are_read_in_place(tmp_path, format):
  members, _, problem = list_members(
    write(tmp_path / "a.tar", CONTENTS, format)
  )
  assert not problem
  assert {n: x.read_bytes() for n, x in members.items()} == CONTENTS
  member = members["a.mp4"]
  with member.open() as file:
    assert file.seek(-3, io.SEEK_END) == 1497 and file.read() == b"345"
    assert file.seek(4) == 4 and file.read(2) == b"51" and file.tell() == 6
    assert file.seek(9999) == 9999 and file.read() == b""
  assert f"{member}" == f"{tmp_path}/a.tar/a.mp4"
  with files.local_copy(member) as path:
    assert path.name == "a.mp4" and path.read_bytes() == CONTENTS["a.mp4"]
  assert text_files.read_text(members["b/c.txt"]) == "text"
  assert [x.name for x in tmp_path.iterdir()] == ["a.tar"]


def test_a_tar_in_a_bucket_is_read_in_place():
  members, _, problem = list_members(write(bucket.make() / "a.tar", CONTENTS))
  assert not problem
  assert members["a.mp4"].read_bytes() == CONTENTS["a.mp4"]


@pytest.mark.parametrize(
  ("length", "whole"), [(3600, 1), (3072, 1), (2100, 1), (2048, 1), (700, 0)]
)
def test_of_a_tar_that_is_cut_the_whole_files_are_read(tmp_path, length, whole):
  """In the data of a file, in a header, between two, and in the first."""
  contents = {f"{i}.mp4": bytes([i]) * 1500 for i in range(3)}
  path = write(tmp_path / "a.tar", contents, tarfile.GNU_FORMAT)
  path.write_bytes(path.read_bytes()[:length])
  members, _, problem = list_members(path)
  assert list(members) == list(contents)[:whole]
  assert f"{whole} files of it are whole" in problem


@pytest.mark.parametrize(
  "data", [b"no tar" * 200, b"\x1f\x8b" + b"x" * 600, b""]
)
def test_what_is_no_tar_has_a_reason(tmp_path, data):
  (tmp_path / "a.tar").write_bytes(data)
  members, _, problem = list_members(tmp_path / "a.tar")
  assert not members and "is no tar, or a compressed one" in problem


def add(tar, name, type=tarfile.REGTYPE, to="", data=b""):
  info = tarfile.TarInfo(name)
  info.type, info.linkname, info.size = type, to, len(data)
  tar.addfile(info, io.BytesIO(data))


def test_names_that_lead_out_and_links_have_a_reason(tmp_path):
  path = tmp_path / "a.tar"
  with tarfile.open(path, "w") as tar:
    for name in ("../out.mp4", "..", "/etc/x.mp4", "./in.mp4", "a/../b.mp4"):
      add(tar, name)
    add(tar, "link.mp4", tarfile.SYMTYPE, "/etc/passwd")
    add(tar, "a/up.mp4", tarfile.SYMTYPE, "../../x.mp4")
    add(tar, "hard.mp4", tarfile.LNKTYPE, "none.mp4")
    add(tar, "one.mp4", tarfile.SYMTYPE, "two.mp4")
    add(tar, "two.mp4", tarfile.SYMTYPE, "one.mp4")
    add(tar, "pipe.mp4", tarfile.FIFOTYPE)
    add(tar, "folder.mp4", tarfile.DIRTYPE)
  members, left_out, problem = list_members(path)
  assert set(members) == {"in.mp4", "b.mp4"} and not problem
  assert left_out == {
    "../out.mp4": "has a name that leads out of the tar",
    "..": "has a name that leads out of the tar",
    "/etc/x.mp4": "has an absolute name in the tar",
    "link.mp4": "is a link to no file in the tar (/etc/passwd)",
    "a/up.mp4": "is a link to no file in the tar (../x.mp4)",
    "hard.mp4": "is a link to no file in the tar (none.mp4)",
    "one.mp4": "is a link to no file in the tar (two.mp4)",
    "two.mp4": "is a link to no file in the tar (one.mp4)",
    "pipe.mp4": "is no regular file",
  }


def test_links_are_the_files_that_they_lead_to(tmp_path):
  """The last of a name counts, and a hard link is to the one before it."""
  with tarfile.open(tmp_path / "a.tar", "w") as tar:
    add(tar, "b/soft.mp4", tarfile.SYMTYPE, "../c/over.mp4")  # before both
    add(tar, "c/over.mp4", tarfile.SYMTYPE, "../a.mp4")
    add(tar, "a.mp4", data=b"old")
    add(tar, "b/hard.mp4", tarfile.LNKTYPE, "./a.mp4")
    add(tar, "a.mp4", tarfile.SYMTYPE, "/nowhere")
    add(tar, "a.mp4", data=b"new")
  members, left_out, _ = list_members(tmp_path / "a.tar")
  assert {name: member.read_bytes() for name, member in members.items()} == {
    "a.mp4": b"new",
    "b/hard.mp4": b"old",
    "b/soft.mp4": b"new",
    "c/over.mp4": b"new",
  }
  assert not left_out
  assert all(name == member.name for name, member in members.items())

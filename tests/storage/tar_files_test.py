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
  members, problem = list_members(write(tmp_path / "a.tar", CONTENTS, format))
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
  members, problem = list_members(write(bucket.make() / "a.tar", CONTENTS))
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
  members, problem = list_members(path)
  assert list(members) == list(contents)[:whole]
  assert f"{whole} files of it are whole" in problem


@pytest.mark.parametrize(
  "data", [b"no tar" * 200, b"\x1f\x8b" + b"x" * 600, b""]
)
def test_what_is_no_tar_has_a_reason(tmp_path, data):
  (tmp_path / "a.tar").write_bytes(data)
  members, problem = list_members(tmp_path / "a.tar")
  assert not members and "is no tar, or a compressed one" in problem


def test_names_that_lead_out_and_links_are_left_out(tmp_path):
  path = tmp_path / "a.tar"
  with tarfile.open(path, "w") as tar:
    for name in ("../out.mp4", "/etc/x.mp4", "./in.mp4", "a/../b.mp4"):
      tar.addfile(tarfile.TarInfo(name))
    link = tarfile.TarInfo("link.mp4")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    tar.addfile(link)
    folder = tarfile.TarInfo("folder.mp4")
    folder.type = tarfile.DIRTYPE
    tar.addfile(folder)
  assert set(list_members(path)[0]) == {"in.mp4", "b.mp4"}

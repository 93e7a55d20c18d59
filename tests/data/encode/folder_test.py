"""Every file below a folder, and those at which a reader would stop."""

import os
import socket

from ccl_jax.data.encode import folder
from tests import bucket


def test_links_are_followed_and_what_cannot_be_read_has_a_reason(tmp_path):
  top, other = tmp_path / "top", tmp_path / "other"
  for path in (top / "sub" / "a.mp4", other / "b.mp4"):
    path.parent.mkdir(parents=True)
    path.touch()
  (top / "file.mp4").symlink_to(other / "b.mp4")
  (top / "folder").symlink_to(other)
  (top / "nothing.mp4").symlink_to("absent")
  (top / "one").symlink_to("two")
  (top / "two").symlink_to("one")
  (top / "sub" / "up").symlink_to("..")
  (top / "sub" / "self").symlink_to(".")
  (top / "sub" / "above").symlink_to(tmp_path)
  (top / "sub" / "root").symlink_to("/")
  (other / "back").symlink_to(top)
  os.mkfifo(top / "pipe.mp4")
  with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(str(top / "s.mp4"))
  with open(os.fsencode(top) + b"/caf\xe9.mp4", "wb"):
    pass
  loop = "Too many levels of symbolic links"
  inside = "is a link to a folder that it is in"
  assert folder.list_files(top) == {
    "sub/a.mp4": "",
    "file.mp4": "",
    "folder/b.mp4": "",
    "nothing.mp4": "is a link to nothing",
    "one": loop,
    "two": loop,
    "sub/up": inside,
    "sub/self": inside,
    "sub/above": inside,
    "sub/root": inside,
    "folder/back": inside,
    "pipe.mp4": "is no regular file",
    "s.mp4": "is no regular file",
    os.fsdecode(b"caf\xe9.mp4"): "has a name that is not UTF-8",
  }


def test_in_a_bucket_there_are_only_files():
  where = bucket.make()
  (where / "sub").mkdir()
  (where / "sub" / "a.mp4").write_text("a")
  assert folder.list_files(where) == {"sub/a.mp4": ""}

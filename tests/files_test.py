"""Files that are complete or absent, on disk and in a bucket."""

import errno
import logging

import numpy as np
import pytest
from etils import epath

from ccl_jax import files
from tests import bucket


@pytest.fixture(params=["disk", "bucket"])
def folder(request, tmp_path):
  """A local folder, then one in a bucket."""
  return epath.Path(tmp_path) if request.param == "disk" else bucket.make()


def names(folder):
  return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole_and_replaces_the_old_one(folder):
  for text in ("old", "new"):
    with files.replacing(folder / "sub" / "a.txt") as partial:
      partial.write_text(text)
      assert not (folder / "sub" / "a.txt").exists() or text == "new"
  assert (folder / "sub" / "a.txt").read_text() == "new"
  assert names(folder / "sub") == ["a.txt"]


def test_libraries_that_know_only_local_files_write_and_read(folder):
  with (
    files.replacing(folder / "a.npz") as partial,
    open(partial, "wb") as file,
  ):
    np.savez(file, x=np.arange(3))
  with files.local_copy(folder / "a.npz") as local, np.load(local) as arrays:
    np.testing.assert_array_equal(arrays["x"], np.arange(3))


def test_a_directory_is_replaced_by_the_new_one(folder):
  for generation in (("a", "b/c"), ("d",)):
    with files.replacing(folder / "made") as partial:
      for name in generation:
        (partial / name).parent.mkdir(parents=True, exist_ok=True)
        (partial / name).write_text(name)
  assert names(folder / "made") == ["d"]
  assert names(folder) == ["made"]


def test_when_the_body_fails_the_old_file_stays(folder):
  (folder / "a.txt").write_text("old")
  with (
    pytest.raises(RuntimeError, match="half way"),
    files.replacing(folder / "a.txt") as partial,
  ):
    partial.write_text("half")
    raise RuntimeError("half way")
  assert (folder / "a.txt").read_text() == "old"
  assert names(folder) == ["a.txt"]


def test_a_local_file_is_not_copied(tmp_path):
  (tmp_path / "a.txt").write_text("a")
  with files.local_copy(tmp_path / "a.txt") as local:
    assert local == tmp_path / "a.txt"


def test_a_bucket_that_fails_is_a_warning_and_tried_again(caplog, monkeypatch):
  workdir = bucket.make()
  mirror = files.BucketMirror(workdir, every_seconds=0.0)
  (mirror.local / "a.txt").write_text("a")
  with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
    patch.setattr(type(workdir), "write_bytes", lambda *_: 1 / 0, raising=True)
    mirror.copy_if_due()
  assert "a.txt" in caplog.text and "division" in caplog.text
  assert not (workdir / "a.txt").exists()
  mirror.copy_if_due()
  assert (workdir / "a.txt").read_text() == "a"
  mirror.close()
  assert not mirror.local.exists()


@pytest.mark.parametrize(
  ("data", "text"),
  [(b"", ""), (b"\xef\xbb\xbfa", "a"), (b"a\r\nb", "a\r\nb")],
)
def test_text_is_utf_8(folder, data, text):
  (folder / "a.txt").write_bytes(data)
  assert files.read_text(folder / "a.txt") == text


@pytest.mark.parametrize(
  ("data", "reason"),
  [
    (b"a\nb\xe9c", "line 2 has the byte 0xe9, as in Latin-1"),
    ("a".encode("utf-16"), "it is UTF-16"),
    ("\ufeffa".encode("utf-16-be"), "it is UTF-16"),
    ("ab".encode("utf-16-le"), "it has bytes of zero"),
    ("a".encode("utf-32"), "it is UTF-16"),
  ],
)
def test_another_encoding_is_an_error_with_the_name(tmp_path, data, reason):
  (tmp_path / "a.txt").write_bytes(data)
  with pytest.raises(ValueError, match=rf"a\.txt' is not UTF-8: {reason}"):
    files.read_text(tmp_path / "a.txt")


def test_line_separators_of_unicode_do_not_end_a_line(tmp_path):
  (tmp_path / "a").write_bytes("a\u2028b\x0c\x85\nc\r\nd\re\n".encode())
  lines = ["a\u2028b\x0c\x85", "c", "d", "e", ""]
  assert files.read_lines(tmp_path / "a") == lines


def test_a_folder_is_not_replaced_by_a_file(tmp_path):
  """As when --output names a folder of clips in place of a file."""
  (tmp_path / "clips").mkdir()
  (tmp_path / "clips" / "a.mp4").write_text("a")
  with (
    pytest.raises(OSError, match="clips"),
    files.replacing(tmp_path / "clips") as partial,
  ):
    partial.write_text("new")
  assert [path.name for path in tmp_path.rglob("*")] == ["clips", "a.mp4"]


@pytest.mark.parametrize(
  "error",
  [
    OSError(errno.ENOSPC, "No space left on device"),
    RuntimeError("write() failed: No space left on device; at byte 7"),
    ValueError("RESOURCE_EXHAUSTED: [OS error 28: No space left on device]"),
  ],
)
def test_a_full_disk_is_one_error_with_the_name(tmp_path, error):
  """Whichever library meets it."""
  path = tmp_path / "a.bin"
  with (
    pytest.raises(OSError, match="No space left") as caught,
    files.replacing(path) as partial,
  ):
    partial.write_text("half")
    raise error
  assert caught.value.filename == str(path)
  assert caught.value.errno == errno.ENOSPC
  assert not list(tmp_path.iterdir())


def test_a_folder_for_results_is_possible_or_refused_before_the_work(tmp_path):
  assert files.check_folder(tmp_path / "a" / "b") == epath.Path(
    tmp_path / "a/b"
  )
  assert not list(tmp_path.iterdir())
  (tmp_path / "file").write_text("x")
  for path in (tmp_path / "file", tmp_path / "file" / "below"):
    with pytest.raises(NotADirectoryError) as caught:
      files.check_folder(path)
    assert caught.value.filename == str(tmp_path / "file")

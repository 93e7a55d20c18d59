"""Files that are complete or absent, on disk and in a bucket."""

import errno
import logging

import numpy as np
import pytest
from etils import epath

from ccl_jax.storage import files
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


def test_brackets_of_a_folder_are_no_pattern(folder):
  odd = folder / "set [v1] *?"
  for name in ("b.json", "a.json", "c.txt"):
    with files.replacing(odd / name) as partial:
      partial.write_text(name)
  assert [x.name for x in files.find(odd, "*.json")] == ["a.json", "b.json"]
  assert files.find(folder / "absent", "*") == []


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
  monkeypatch.setattr(files, "MIRROR_SECONDS", 0.0)
  mirror = files.BucketMirror(workdir)
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


def test_an_output_neither_is_nor_holds_an_input(folder):
  for inside in ("a", "a/b", "a/./b/../c"):
    with pytest.raises(ValueError, match="choose another --output"):
      files.check_apart(folder / "a", None, folder / inside)
  files.check_apart(folder / "a" / "b", folder / "a", folder / "ab")
  files.check_apart(folder / "a", folder / "ab", "gs://other/a", "/other")


def test_links_do_not_hide_an_input(tmp_path):
  (tmp_path / "real").mkdir()
  (tmp_path / "link").symlink_to("real")
  with pytest.raises(ValueError, match="holds the input"):
    files.check_apart(tmp_path / "link", tmp_path / "real" / "a.mp4")


def test_only_what_the_command_wrote_is_replaced(folder):
  def is_own(names):
    return names == {"mark"}

  output = folder / "out"
  files.check_new(output, False, is_own)
  output.mkdir()
  (output / "mark").write_text("")
  files.check_new(output, True, is_own)
  with pytest.raises(ValueError, match="or replace it with --force"):
    files.check_new(output, False, is_own)
  (output / "mine").write_text("")
  for force, path in ((True, output), (False, output / "mine")):
    with pytest.raises(ValueError, match=r"did not write it: .* --output\.$"):
      files.check_new(path, force, is_own)


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


@pytest.mark.parametrize("name", ["a.npz", "a.npy"])
def test_arrays_that_are_damaged_are_named(folder, tmp_path, name):
  save = {"a.npz": np.savez, "a.npy": np.save}[name]
  save(tmp_path / name, np.arange(1000.0))
  data = (tmp_path / name).read_bytes()
  (folder / name).write_bytes(data)
  (found,) = files.read_arrays(folder / name).values()
  np.testing.assert_array_equal(found, np.arange(1000.0))
  for part in (b"", data[: len(data) // 2], b"[1]"):
    (folder / name).write_bytes(part)
    with pytest.raises(ValueError, match=rf"{name}' cannot be read as arrays"):
      files.read_arrays(folder / name)

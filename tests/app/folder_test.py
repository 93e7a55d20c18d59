"""The folder of a page goes with its process, however that ends."""

import subprocess
import sys
import tempfile

import pytest

from ccl_jax.app import folder

PAGE = """
import time
from ccl_jax.app.folder import temporary_folder

with temporary_folder() as folder:
  (folder / "upload.mp4").write_text("private")
  print(folder, flush=True)
  time.sleep(60)
"""


@pytest.fixture
def parent(tmp_path, monkeypatch):
  monkeypatch.setenv("TMPDIR", str(tmp_path))
  monkeypatch.setattr(tempfile, "tempdir", None)
  return tmp_path


def test_leftovers_of_a_killed_page_are_deleted_and_nothing_else(parent):
  pages = [
    subprocess.Popen([sys.executable, "-c", PAGE], stdout=subprocess.PIPE)
    for _ in range(2)
  ]
  try:
    names = [page.stdout.readline().decode().strip() for page in pages]
    pages[0].kill()
    pages[0].wait()
    (parent / "other").mkdir()
    (parent / "ccl_jax_page_link").symlink_to(parent / "other")
    assert len(list(parent.glob("ccl_jax_page_*/upload.mp4"))) == 2
    with folder.temporary_folder() as own:
      left = [str(x) for x in parent.glob("ccl_jax_page_*") if x.is_dir()]
      expected = [names[1], str(own), str(parent / "ccl_jax_page_link")]
      assert sorted(left) == sorted(expected)
    assert not own.exists()
    assert (parent / "other").exists()
  finally:
    for page in pages:
      page.kill()
      page.wait()
      page.stdout.close()

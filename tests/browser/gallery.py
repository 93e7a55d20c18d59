"""The page of a data set in headless Chromium.

    python -m pytest -n 0 tests/browser/gallery.py

Needs the system's chromium only.
"""

import html
import re
import shutil
import subprocess

import pytest

from ccl_jax.data import gallery
from tests.data import clips

NUM = 120
EVIL = "</script><script>document.title = 'run'</script><b>bold</b>"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
  folder, codecs = tmp_path_factory.mktemp("gallery"), clips.codecs()
  examples = [
    clips.example(
      codecs, i % 9, name=f"clip {i}", caption=f"Number {i}. {EVIL}"
    )
    for i in range(NUM)
  ]
  clips.write_records(folder / "data", codecs, examples)
  gallery.write_gallery(folder / "data", folder / "page.html")
  return folder / "page.html"


def opened(page, words=""):
  """Returns what the page became, without its scripts."""
  done = subprocess.run(
    [
      shutil.which("chromium"), "--headless=new", "--no-sandbox",
      "--disable-gpu", "--disable-dev-shm-usage", "--dump-dom",
      f"file://{page}#{words}",
    ],
    capture_output=True, text=True, timeout=120, check=True,
  )  # fmt: skip
  return re.sub(r"<script.*?</script>", "", done.stdout, flags=re.S)


def test_the_first_page_has_fifty_clips(page):
  text = opened(page)
  assert text.count("<article>") == 50 and text.count("<img ") == 100
  assert f"page 1 of 3, {NUM} of {NUM} clips" in text
  assert html.escape(EVIL, quote=False) in text and "<b>" not in text
  assert "<title>Clips</title>" in text


def test_words_find_clips_on_any_page(page):
  text = opened(page, "number%20117.")
  assert "page 1 of 1, 1 of 120 clips" in text
  assert re.findall("<h2>(.*?)</h2>", text) == ["clip 117 (train)"]
  assert "page 1 of 1, 0 of 120 clips" in opened(page, "nothing")

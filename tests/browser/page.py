"""The page in headless Chromium, as a person uses it.

    python -m pytest -n 0 tests/browser/page.py

Needs requirements.txt beside this file, and of the system chromium and
chromedriver (Debian: apt-get install chromium chromium-driver). Screenshots go
to runs/page.
"""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from ccl_jax.data import media
from tests.commands import free_port
from tests.runs import SAMPLES, SHAPE, hum

ROOT = pathlib.Path(__file__).parents[2]
SHOTS = ROOT / "runs" / "page"
FLAGS = (
  "--headless=new", "--no-sandbox", "--disable-dev-shm-usage",
  "--window-size=1280,1100", "--autoplay-policy=no-user-gesture-required",
)  # fmt: skip


@pytest.fixture(scope="module")
def address(run, tmp_path_factory):
  """Of the page, which is served while the tests run."""
  port = free_port()
  address = f"http://127.0.0.1:{port}"
  log = tmp_path_factory.mktemp("page") / "log"
  temporary = tmp_path_factory.mktemp("temporary")
  with log.open("w") as file:
    server = subprocess.Popen(
      [
        sys.executable, "-m", "ccl_jax.app", f"--workdir={run}",
        f"--port={port}", "--max_upload_seconds=60",
      ],
      cwd=ROOT,
      env=os.environ | {"JAX_PLATFORMS": "cpu", "TMPDIR": str(temporary)},
      stdout=file, stderr=subprocess.STDOUT,
    )  # fmt: skip
  try:
    until(lambda: answers(address) or server.poll() is not None, 120)
    assert server.poll() is None, log.read_text()
    yield address
  finally:
    server.terminate()
    server.wait()
  assert not list(temporary.rglob("*.*")), "uploads and results are deleted"


@pytest.fixture(scope="module")
def chromium():
  options = webdriver.ChromeOptions()
  for flag in FLAGS:
    options.add_argument(flag)
  driver = shutil.which("chromedriver")
  with webdriver.Chrome(options=options, service=Service(driver)) as chromium:
    yield chromium


@pytest.fixture
def browser(chromium, address):
  """Shows the page, as new."""
  chromium.get(address)
  until(lambda: shown(chromium, "#prompt textarea"))
  return chromium


def answers(address):
  try:
    with urllib.request.urlopen(address, timeout=5) as answer:
      return answer.status == 200
  except OSError:
    return False


def until(is_true, seconds=60):
  """What `is_true` gives, as soon as that is true."""
  end = time.monotonic() + seconds
  while time.monotonic() < end:
    with contextlib.suppress(StaleElementReferenceException):
      if found := is_true():
        return found
    time.sleep(0.1)
  raise AssertionError(f"Not within {seconds} s.")


def shown(browser, selector):
  """The elements of a CSS selector that are displayed."""
  found = browser.find_elements(By.CSS_SELECTOR, selector)
  return [element for element in found if element.is_displayed()]


def choose(browser, text):
  """Chooses a task; the list fades in, so its options appear one by one."""
  browser.find_element(By.CSS_SELECTOR, "#task input").click()
  until(lambda: options(browser, text))[0].click()


def options(browser, text):
  """The displayed options of an open list with this text."""
  found = shown(browser, "[role=option]")
  return [option for option in found if option.text.strip("✓ \n") == text]


def upload(browser, name, path):
  field = until(
    lambda: browser.find_elements(By.CSS_SELECTOR, f"#{name} input[type=file]")
  )
  field[0].send_keys(str(path))


def generate(browser, prompt):
  area = browser.find_element(By.CSS_SELECTOR, "#prompt textarea")
  area.clear()
  area.send_keys(prompt)
  browser.find_element(By.CSS_SELECTOR, "#go").click()


def downloads(browser):
  """Suffixes -> where it is, of the files that are offered."""
  places = until(lambda: links(browser), 120)
  return {"".join(pathlib.PurePosixPath(x).suffixes): x for x in places}


def links(browser):
  """Where the files are, once all of their links are displayed."""
  found = browser.find_elements(By.CSS_SELECTOR, "#files a[href]")
  if all(link.is_displayed() for link in found):
    return [link.get_attribute("href") for link in found]
  return []


def fetch(address, path):
  with urllib.request.urlopen(address, timeout=30) as answer:
    path.write_bytes(answer.read())
  return path


def message(browser):
  """The words of the first message that has faded in."""
  return until(
    lambda: next((x.text for x in shown(browser, ".toast-body")), "")
  )


def shoot(browser, name):
  SHOTS.mkdir(parents=True, exist_ok=True)
  browser.save_screenshot(str(SHOTS / f"{name}.png"))


def test_a_prompt_becomes_a_clip_that_plays(browser, tmp_path):
  assert not shown(browser, "#image") and not shown(browser, "#audio")
  browser.find_element(By.XPATH, "//button[contains(., 'More')]").click()
  until(lambda: shown(browser, "#look input"))[0].click()
  generate(browser, 'A face. "a i" A voice.')
  files = downloads(browser)
  video = until(lambda: shown(browser, "#clip video"))[0]
  until(lambda: video.get_property("currentTime") > 0)
  assert abs(video.get_property("duration") - 0.2) < 0.1
  assert until(lambda: shown(browser, "#mel img"))
  attention = until(lambda: shown(browser, "#attention img"))[0]
  until(lambda: attention.get_property("naturalWidth") == 1152)
  assert ".attention.mp4" in files
  shoot(browser, "t2av")
  clip = media.read_clip(fetch(files[".mp4"], tmp_path / "made.mp4"))
  assert clip.video.shape == (SHAPE.frames, *SHAPE.size, 3)
  assert len(clip.audio) == SAMPLES
  said = json.loads(fetch(files[".json"], tmp_path / "made.json").read_text())
  assert said["prompt"] == 'A face. "a i" A voice.' and said["task"] == "t2av"


def test_a_sound_becomes_a_video_with_it(browser, inputs, tmp_path):
  choose(browser, "text, sound → video")
  until(lambda: shown(browser, "#audio"))
  upload(browser, "audio", inputs["audio"])
  until(lambda: shown(browser, "#audio #waveform"))
  generate(browser, "A face.")
  assert "the first 0.20 s of" in message(browser)
  files = downloads(browser)
  shoot(browser, "a2v")
  clip = media.read_clip(fetch(files[".mp4"], tmp_path / "made.mp4"))
  given, inner = hum(1.0)[:SAMPLES], slice(800, -800)
  assert np.corrcoef(clip.audio[inner], given[inner])[0, 1] > 0.9
  text = fetch(files[".json"], tmp_path / "made.json").read_text()
  assert json.loads(text)["audio"] == "hum.wav"
  assert json.loads(text)["checkpoint"]["workdir"] == "run"
  assert "/" not in text


def set_number(browser, label, value):
  """Types into the number field of a label, below More."""
  field = until(lambda: shown(browser, f"input[aria-label*='{label}']"))[0]
  field.send_keys(Keys.CONTROL, "a")
  field.send_keys(Keys.BACKSPACE, value)


def test_a_request_can_be_stopped(browser):
  """While it runs; a further one is then made."""
  browser.find_element(By.XPATH, "//button[contains(., 'More')]").click()
  set_number(browser, "Steps", "100")
  generate(browser, "A face talks for long.")
  until(lambda: "Compiling" in browser.page_source)
  assert "0/100" not in browser.page_source
  browser.find_element(By.CSS_SELECTOR, "#stop").click()
  assert "Stopped" in message(browser)
  assert not shown(browser, "#files a[href]")
  set_number(browser, "Steps", "2")
  generate(browser, "A face.")
  assert ".mp4" in downloads(browser)


def test_an_example_is_filled_in(browser):
  text = until(lambda: shown(browser, ".gallery-item, td"))[0]
  text.click()
  area = browser.find_element(By.CSS_SELECTOR, "#prompt textarea")
  until(lambda: "talks" in area.get_property("value"))


def test_an_empty_prompt_or_seed_is_one_clear_line(browser):
  generate(browser, "")
  assert "The prompt is empty" in message(browser)
  browser.refresh()
  until(lambda: shown(browser, "#prompt textarea"))
  browser.find_element(By.XPATH, "//button[contains(., 'More')]").click()
  set_number(browser, "Seed", "")
  generate(browser, "A face.")
  assert "The seed is empty" in message(browser)


def test_an_image_that_is_none_is_one_clear_line(browser, tmp_path):
  choose(browser, "text, first frame → video and sound")
  until(lambda: shown(browser, "#image"))
  rubbish = tmp_path / "rubbish.png"
  rubbish.write_text("this is no image")
  upload(browser, "image", rubbish)
  time.sleep(2)
  generate(browser, "A face.")
  text = message(browser)
  assert "rubbish.png: " in text and "/" not in text
  assert len(text.strip().splitlines()) == 3, text  # its title, x, the line


def test_what_is_wrong_is_told(browser, tmp_path):
  """An upload that is none, none at all, and one that is too long."""
  choose(browser, "text, sound → video")
  until(lambda: shown(browser, "#audio"))
  generate(browser, "A face.")
  assert "needs audio" in message(browser)
  rubbish = tmp_path / "rubbish.wav"
  rubbish.write_text("this is no sound")
  upload(browser, "audio", rubbish)
  time.sleep(2)
  generate(browser, "A face.")
  until(lambda: "Invalid data" in browser.page_source)
  shoot(browser, "rubbish")

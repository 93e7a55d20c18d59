"""The page in a browser is tested by tests/browser/page.py."""

import subprocess
import sys

from ccl_jax.app import ui
from ccl_jax.diffusion import tasks

WITHOUT_GRADIO = """
import runpy, sys
sys.modules["gradio"] = None
sys.argv = ["app", "--workdir=nowhere"]
runpy.run_module("ccl_jax.app", run_name="__main__")
"""


def test_the_page_has_every_task():
  assert set(ui.TASKS) == set(tasks.INFERENCE_TASKS)


def test_without_gradio_the_error_says_what_to_install():
  done = subprocess.run(
    [sys.executable, "-c", WITHOUT_GRADIO], capture_output=True, text=True
  )
  assert done.returncode == 2
  assert done.stderr.startswith("error: the page needs gradio")
  assert "pip install 'gradio" in done.stderr

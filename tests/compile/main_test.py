"""What the compiled steps need: nothing may grow, all must fit.

`tests.budgets.refresh` writes what it finds; two small steps and one of full
size are compiled again here, the others take longer.
"""

import json
import os
import subprocess
import sys

import pytest

from configs import pods
from tests.budgets import gpu
from tests.budgets.refresh import BUDGETS, FOLDER

FILES = {path.stem: json.loads(path.read_text()) for path in sorted(
  FOLDER.glob("*.json")
) if path.stem in BUDGETS}  # fmt: skip
AGAIN = ("video-a-full", "small-audio-v5e", "small-video-v6e")


@pytest.mark.parametrize("name", FILES)
def test_every_budget_leaves_a_tenth_of_the_memory(name):
  assert FILES[name]["headroom"] >= 0.1
  assert FILES[name]["config"] == BUDGETS[name].config
  assert FILES[name]["topology"] == BUDGETS[name].topology


def test_every_config_has_its_budget():
  assert set(FILES) == set(BUDGETS)


@pytest.mark.parametrize("name", AGAIN)
def test_no_figure_grows_beyond_its_budget(name):
  """With the compiler's own optimizations, hence in a process of its own."""
  cpu = ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS")
  env = {k: v for k, v in os.environ.items() if k not in cpu}
  done = subprocess.run(
    [sys.executable, "-m", "tests.budgets.measure", name],
    capture_output=True, text=True, env=env, cwd=FOLDER.parents[1],
  )  # fmt: skip
  assert done.returncode == 0, done.stdout + done.stderr
  found, budget = json.loads(done.stdout.splitlines()[-1]), FILES[name]
  assert found["hbm_gb"] <= 1.02 * budget["hbm_gb"]
  assert found["copies_per_layer"] <= budget["copies_per_layer"]
  for ratio in ("hardware_over_model", "executed_over_model"):
    assert found[ratio] <= budget[ratio] + 0.002
  assert set(found["wire_gb"]) <= set(budget["wire_gb"])
  for axes, sent in found["wire_gb"].items():
    assert sent <= 1.02 * budget["wire_gb"][axes] + 0.001


@pytest.mark.parametrize("pod", pods.PODS)
def test_every_pod_pads_less_than_a_part(pod):
  config = pods.get_config(f"pod={pod},size=1.3b")
  shards = config.mesh.data * config.mesh.fsdp
  padding = -config.batch_size % (config.grad_accumulation_steps * shards)
  assert padding < shards


def test_cards_of_80_gb_hold_what_training_on_gpus_keeps():
  """A quarter is left: for temporaries, and what JAX leaves to the driver."""
  found = json.loads(gpu.FILE.read_text())
  assert [each["config"] for each in found] == list(gpu.LAYOUTS)
  for each in found:
    assert each["total_gb"] <= 0.75 * 80


def test_memory_on_a_gpu_is_what_was_written():
  assert (
    gpu.measure(next(iter(gpu.LAYOUTS))) == json.loads(gpu.FILE.read_text())[0]
  )

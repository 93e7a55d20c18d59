"""What the compiled steps need, as `tests.budgets.refresh` last found it."""

import json

import pytest

from configs import pods
from tests.budgets.refresh import BUDGETS, FOLDER

FILES = sorted(FOLDER.glob("*.json"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_budget_leaves_a_tenth_of_the_memory(path):
  budget = json.loads(path.read_text())
  assert budget["headroom"] >= 0.1
  argument, topology, _ = BUDGETS[path.stem]
  assert (budget["config"], budget["topology"]) == (argument, topology)


@pytest.mark.parametrize("pod", pods.PODS)
def test_every_pod_has_a_batch_that_its_parts_divide(pod):
  config = pods.get_config(f"pod={pod},size=1.3b")
  shards = config.mesh.data * config.mesh.fsdp
  assert config.batch % (config.accumulate * shards) == 0

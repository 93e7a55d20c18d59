"""What a run starts from."""

import jax
import numpy as np

from ccl_jax.checkpoints.manager import CheckpointManager
from ccl_jax.training.start import first_state
from tests.models import tiny
from tests.training import setups


def test_a_run_starts_anew_or_from_its_newest_checkpoint(tmp_path, capsys):
  independent = {"kind": "independent"}
  alone = dict(video=None, num_layers=1, fusion=independent)
  setup = setups.make_setup(model=tiny.SETTINGS | alone)

  def start():
    checkpoints = CheckpointManager(tmp_path, save_interval_steps=1)
    return checkpoints, *first_state(setup, checkpoints, {})

  checkpoints, state, step = start()
  assert step == state["step"] == 0
  for step in (2, 3):
    state = jax.tree.map(lambda x: x + 1, state)
    checkpoints.save(step, state)
  checkpoints.close()
  checkpoints, resumed, step = start()
  checkpoints.close()
  assert step == 3
  jax.tree.map(np.testing.assert_array_equal, resumed, state)
  assert f"Resuming {tmp_path} from step 3" in capsys.readouterr().out

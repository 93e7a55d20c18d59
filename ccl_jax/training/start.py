"""The state that a run starts from, the first of these that exists:

1. the newest checkpoint of its workdir;
2. parameters of earlier runs, by the rules of `config.init`;
3. random parameters.
"""

import dataclasses
from collections.abc import Mapping

from etils import epath

from ccl_jax.array_types import Array, PyTree
from ccl_jax.checkpoints import manager, restore
from ccl_jax.config import FORMS, check_pairs, check_patterns
from ccl_jax.params import lora
from ccl_jax.training.setup import TrainSetup
from ccl_jax.training.state import (
  abstract_state,
  init_state,
  replace_params,
  state_params,
)


@dataclasses.dataclass(frozen=True)
class InitConfig:
  """The `init` section; see `restore.initial_params`.

  Attributes:
    from_runs: (path regex, workdir): parameters of earlier runs.
    fresh: path regexes of parameters that no earlier run has.

  Raises:
    ValueError: `from_runs` is not made of pairs, or a regex is invalid.
  """

  from_runs: tuple[tuple[str, str], ...] = ()
  fresh: tuple[str, ...] = ()

  def __post_init__(self):
    check_pairs("init.from_runs", self.from_runs, str)
    check_patterns("init.from_runs", (regex for regex, _ in self.from_runs))
    check_patterns("init.fresh", self.fresh)


def earlier_params(
  setup: TrainSetup, workdir: epath.PathLike, init: InitConfig
) -> dict[str, Array]:
  """Returns path -> parameter for those that a new run takes from earlier ones.

  A run that has a checkpoint takes none. Raises as `restore.initial_params`.
  """
  if not init.from_runs or restore.all_steps(workdir):
    return {}
  shapes = lora.without(state_params(abstract_state(setup)))
  return restore.initial_params(shapes, init.from_runs, init.fresh)


def first_state(
  setup: TrainSetup,
  checkpoints: manager.CheckpointManager,
  params: Mapping[str, Array],
) -> tuple[PyTree, int]:
  """Returns the state to go on from, and the number of steps it has had.

  Args:
    params: path -> parameter of a new state that is not random.

  Raises:
    ValueError: a checkpoint that does not fit the model.
  """
  found = checkpoints.restore_latest(abstract_state(setup))
  if found is not None:
    print(f"Resuming {checkpoints.workdir} from step {found[1]}.")
    return found
  state = init_state(setup)
  if params:
    state = replace_params(state, params)
  elif state["frozen"]:
    print(
      "Frozen parameters are random: name the run that has trained them,"
      f" --config.init.from_runs={FORMS['init.from_runs']}"
    )
  return state, 0

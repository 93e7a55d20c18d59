"""Options for the compiler, and those that are known to fail."""

import jax
import pytest

from ccl_jax.training import compiler, step
from tests.training import recipes


def test_options_that_fail_on_a_chip_are_refused():
  offload = "xla_tpu_enable_sparse_core_collective_offload_all_gather"
  with pytest.raises(ValueError, match="v5p: these chips hang"):
    compiler.options([(offload, "true")], "TPU v5p")
  assert compiler.options([(offload, "false")], "TPU v5p") == {offload: "false"}
  assert compiler.options([(offload, "true")], "TPU7x") == {offload: "true"}


def test_a_name_that_is_not_of_xla_is_refused():
  with pytest.raises(ValueError, match="scoped_vmem"):
    compiler.options([("scoped_vmem", 1)], "cpu")


def test_options_reach_the_compiler():
  recipe = recipes.make_recipe(xla=(("xla_no_such_option", "1"),))
  lowered = step.compile_step(recipe).lower(
    step.abstract_state(recipe),
    step.abstract_batch(
      recipe, {"video": (3, 4, 6, 3), "audio": (6, 2), "text": (5, 6)}
    ),
  )
  with pytest.raises(jax.errors.JaxRuntimeError, match="xla_no_such_option"):
    lowered.compile()

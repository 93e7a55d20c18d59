"""Options for the compiler, and those that are known to fail."""

import jax
import pytest

from ccl_jax.training import step, xla_options
from ccl_jax.training.batch import abstract_batch
from ccl_jax.training.state import abstract_state
from tests.training import setups

pytestmark = pytest.mark.usefixtures("standard_promotion")


def test_options_that_fail_on_a_chip_are_refused():
  offload = "xla_tpu_enable_sparse_core_collective_offload_all_gather"
  with pytest.raises(ValueError, match="v5p: these chips hang"):
    xla_options.compiler_options([(offload, "true")], "TPU v5p")
  assert xla_options.compiler_options([(offload, "false")], "TPU v5p") == {
    offload: "false"
  }
  assert xla_options.compiler_options([(offload, "true")], "TPU7x") == {
    offload: "true"
  }


def test_groups_are_those_of_the_chip_and_later_options_win():
  limit = "xla_tpu_scoped_vmem_limit_kib"
  got = xla_options.compiler_options(["large_vmem"], "TPU v6 lite")
  assert got == {limit: "98304"}
  assert xla_options.compiler_options(
    ["large_vmem", (limit, "1")], "TPU v5p"
  ) == {limit: "1"}
  with pytest.raises(ValueError, match=r"'overlap' on v5p.*gpu"):
    xla_options.compiler_options(["overlap"], "TPU v5p")
  with pytest.raises(ValueError, match=r"'over'.*overlap"):
    xla_options.compiler_options(["over"], "TPU v6 lite")


@pytest.mark.parametrize("kind", ["NVIDIA H100 80GB HBM3", "NVIDIA B200"])
def test_options_of_gpus_are_known_to_xla(kind):
  options = xla_options.compiler_options(["overlap"], kind)
  assert options["xla_gpu_enable_latency_hiding_scheduler"]
  # XLA for CPUs reads the options of all platforms.
  jax.jit(lambda x: x + 1, compiler_options=options).lower(1.0).compile()
  with pytest.raises(ValueError, match="'sparse_core' on gpu"):
    xla_options.compiler_options(["sparse_core"], kind)


@pytest.mark.parametrize("entry", [3, ("xla_a", 1, 2), (3, "xla_a")])
def test_what_is_no_name_and_no_pair_is_refused(entry):
  with pytest.raises(ValueError, match="expected names of groups, or pairs"):
    xla_options.compiler_options([entry], "cpu")


def test_a_name_that_is_not_of_xla_is_refused():
  with pytest.raises(ValueError, match="scoped_vmem"):
    xla_options.compiler_options([("scoped_vmem", 1)], "cpu")


@pytest.mark.parametrize(
  ("option", "words"),
  [
    ({"xla_no_such_option": True}, "No such compile option"),
    ({"xla_cpu_enable_fast_math": "maybe"}, "'maybe' is not a valid bool"),
  ],
)
def test_what_the_compiler_refuses_is_told_before_the_run(option, words):
  with pytest.raises(ValueError, match=words):
    xla_options.check_options(option, jax.devices()[1])
  fast_math = {"xla_cpu_enable_fast_math": False}
  xla_options.check_options(fast_math, jax.devices()[1])


def test_options_reach_the_compiler():
  setup = setups.make_setup(xla_options=(("xla_no_such_option", "1"),))
  lowered = step.compile_step(setup).lower(
    abstract_state(setup),
    abstract_batch(
      setup, {"video": (3, 4, 6, 3), "audio": (6, 2), "text": (5, 6)}
    ),
  )
  with pytest.raises(jax.errors.JaxRuntimeError, match="xla_no_such_option"):
    lowered.compile()

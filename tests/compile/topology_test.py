"""What does not fit, and what is not there, is said in one line."""

import jax
import pytest

from ccl_jax.compile import topology

PAGE = """RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory
in memory space hbm. Used 121.39G of 95.74G hbm. Exceeded hbm capacity by 25.6G.

Total hbm usage >= 121.92G:
    reserved        530.00M
    arguments        14.10G

  Largest program allocations in hbm:

  1. Size: 20.81G
     Operator: op_name="jit(train_step)/jvp()/while/body/dynamic_update_slice"
     Shape: f32[40,1,27280,5120]{3,2,1,0:T(8,128)}
     Unpadded size: 20.81G
     XLA label: fusion.12
     Allocation type: HLO temp
     ==========================

  2. Size: 1.40G
     Shape: bf16[27280,13824]{1,0:T(8,128)(2,1)}
     Allocation type: HLO temp
"""


def test_out_of_memory_is_one_line_with_the_largest_contributors():
  text = topology.explain(PAGE)
  assert "\n" not in text
  assert "121.39G of 95.74G" in text
  assert "20.81G f32[40,1,27280,5120] of dynamic_update_slice" in text
  assert "1.40G bf16[27280,13824]." in text
  assert (
    "config.grad_accumulation_steps" in text and "config.model.remat" in text
  )


def test_the_short_form_of_the_page_has_its_figures_too():
  text = topology.explain(
    "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM,"
    " the total memory required for HLO temporaries (16.26G) exceeds available"
    " HBM (15.75G)."
  )
  assert "16.26G of 15.75G" in text


def test_another_error_of_the_compiler_is_not_taken_for_it():
  class Lowered:
    def compile(self):
      raise jax.errors.JaxRuntimeError("INTERNAL: a bug")

  with pytest.raises(jax.errors.JaxRuntimeError, match="a bug"):
    topology.compile_for(Lowered())


def test_a_program_that_cannot_be_read_back_names_the_version_that_can():
  class Lowered:
    def compile(self):
      raise jax.errors.JaxRuntimeError(
        "INTERNAL: RET_CHECK failure (hlo_instruction.cc:390) proto."
        "operand_ids_size() == *arity async-update instruction should have 1"
        " operands but sees 2"
      )

  with pytest.raises(ValueError, match=r"jax\.__version__=.* jax 0\.11"):
    topology.compile_for(Lowered())

"""The compiler's estimate, added up by part, on a program written by hand."""

import jax
import jax.numpy as jnp
import pytest

from ccl_jax.attention import attend
from ccl_jax.attention.target import CompileTarget
from ccl_jax.cost import chips, hlo, kernels
from ccl_jax.cost.collectives import collectives
from ccl_jax.cost.schedule import schedule

V5P = chips.chip_named("v5p")
CYCLES = 'backend_config={{"estimated_cycles":"{}"}}'
KERNEL = 'custom_call_target="tpu_custom_call", kernel_name = "norm_rotate_fwd"'
TEXT = f"""
%product (a: bf16[8,8]) -> bf16[8,8] {{
  %a = bf16[8,8]{{1,0}} parameter(0)
  ROOT %dot = bf16[8,8]{{1,0}} dot(%a, %a), {CYCLES.format(99)}
}}
%sum (b: bf16[8,8]) -> bf16[8,8] {{
  %b = bf16[8,8]{{1,0}} parameter(0)
  ROOT %add = bf16[8,8]{{1,0}} add(%b, %b)
}}
%body (s: (s32[], bf16[8,8])) -> (s32[], bf16[8,8]) {{
  %s = (s32[], bf16[8,8]) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %x = bf16[8,8]{{1,0}} get-tuple-element(%s), index=1
  %f = bf16[8,8]{{1,0}} fusion(%x), calls=%product, {CYCLES.format(700)}
  %g = bf16[8,8]{{1,0}} fusion(%f), calls=%sum, {CYCLES.format(70)}
  %c = bf16[8,8]{{0,1}} copy(%g), {CYCLES.format(7)}
  ROOT %t = (s32[], bf16[8,8]) tuple(%i, %c)
}}
%cond (r: (s32[], bf16[8,8])) -> pred[] {{
  %r = (s32[], bf16[8,8]) parameter(0)
  %j = s32[] get-tuple-element(%r), index=0
  %n = s32[] constant(5)
  ROOT %less = pred[] compare(%j, %n), direction=LT
}}
ENTRY %main (p: bf16[8,8]) -> bf16[8,8] {{
  %p = bf16[8,8]{{1,0}} parameter(0)
  %z = s32[] constant(0)
  %all = bf16[8,8]{{1,0}} all-reduce(%p), replica_groups={{{{0,1}}}}
  %start = (s32[], bf16[8,8]) tuple(%z, %all)
  %w = (s32[], bf16[8,8]) while(%start), condition=%cond, body=%body
  %k = bf16[2,128,8]{{2,1,0}} custom-call(%q, %q), {KERNEL}
  %q = bf16[2,128,8]{{2,1,0}} parameter(1)
  ROOT %y = bf16[8,8]{{1,0}} get-tuple-element(%w), index=1
}}
"""


def test_parts_are_cycles_times_trips():
  program = hlo.parse(TEXT)
  found = schedule(program, V5P, collectives(program, {"data": 2}))
  cycles = {part: s * V5P.clock for part, s in found["seconds"].items()}
  assert cycles["matrix products"] == pytest.approx(5 * 700)
  assert cycles["elementwise"] == pytest.approx(5 * 70)
  assert cycles["copies"] == pytest.approx(5 * 7)
  assert cycles["attention"] == 0
  moved = 3 * 2 * 128 * 8 * 2
  assert found["seconds"]["other kernels"] == pytest.approx(
    moved / V5P.hbm_rate
  )
  assert found["seconds"]["collectives"] == pytest.approx(8 * 8 * 2 / V5P.ici)
  assert found["step"] == pytest.approx(sum(found["seconds"].values()))
  assert set(found["single_core"]) == {"norm_rotate_fwd"}


def test_a_program_without_cycles_has_no_schedule():
  text = TEXT.replace("estimated_cycles", "other")
  assert schedule(hlo.parse(text), V5P, []) == {}


def test_a_sparse_core_sends_beside_the_products():
  """Printed as a call of another thread; it counts if the core waits for it."""
  gather = f"""
%gather (g: bf16[2,8,8]) -> bf16[4,8,8] {{
  %g = bf16[2,8,8]{{2,1,0}} parameter(0)
  ROOT %all.1 = bf16[4,8,8]{{2,1,0}} all-gather(%g), replica_groups={{{{0,1}}}}
}}, execution_thread="sparsecore"
ENTRY %main (p: bf16[2,8,8]) -> bf16[4,8,8] {{
  %p = bf16[2,8,8]{{2,1,0}} parameter(0)
  %s = ((), bf16[4,8,8]) custom-call-start(), called_computations={{%gather}}
  %u = ((bf16[2,8,8]), bf16[4,8,8]) custom-call-update(%s, %p)
  %n = bf16[2,8,8]{{2,1,0}} negate(%p), {CYCLES}
  ROOT %d = bf16[4,8,8]{{2,1,0}} custom-call-done(%u)
}}
"""
  sent = 256 * 2 / 2 / V5P.ici
  for cycles in (0, 1, 10**6):
    program = hlo.parse(gather.replace(CYCLES, CYCLES.format(cycles)))
    found = collectives(program, {"data": 2})
    assert [c.kind for c in found if c.is_async] == ["all-gather"]
    waited = schedule(program, V5P, found)["seconds"]["collectives"]
    assert waited == pytest.approx(max(0, sent - cycles / V5P.clock))


@pytest.mark.parametrize(
  ("heads", "kind", "turns"), [(4, "TPU v5", 2), (3, "TPU v5", 1)]
)
def test_every_kernel_of_attention_says_what_its_cores_share(
  heads, kind, turns
):
  """Groups of heads are a parallel axis, so that both cores have work."""

  def gradients(*arrays):
    def call(*arrays):
      target = CompileTarget("tpu", kind)
      return attend(*arrays, backend="splash", target=target)

    out, vjp = jax.vjp(call, *arrays)
    return vjp(out)

  x = jax.ShapeDtypeStruct((1, 2048, heads, 128), jnp.bfloat16)
  lowered = jax.jit(gradients).trace(x, x, x).lower(lowering_platforms=("tpu",))
  lines = [x for x in lowered.as_text().split("\n") if "kernel_name" in x]
  found = [kernels.parallel_turns(line) for line in lines]
  assert len(found) == 2
  assert min(found) % turns == 0 and (min(found) > 1 or heads == 3)

"""Reading HLO: hand-written texts in the words of real compilers."""

import pytest

from ccl_jax.cost import hlo, matmul
from ccl_jax.cost.collectives import collectives, totals
from ccl_jax.cost.copies import copies
from ccl_jax.cost.kernels import kernels, splash_flops
from ccl_jax.cost.report import kernel_flops
from tests.cost.found_loops import loops

# A scan as a TPU compiler prints it: no trip count, comments, a kernel whose
# attributes have line breaks, dots as convolutions inside of fusions.
TPU = """HloModule jit_f, is_scheduled=true, num_partitions=8

FileNames
1 "f.py"

%add (a: bf16[], b: bf16[]) -> bf16[] {
  %a = bf16[] parameter(0)
  %b = bf16[] parameter(1)
  ROOT %sum = bf16[] add(%a, %b)
}

%elsewhere (c: bf16[]) -> bf16[] {
  ROOT %c = bf16[] parameter(0)
}, execution_thread="sparsecore"

%fused_update (p.0: bf16[64,32], p.1: bf16[8,32], p.2: u32[]) -> bf16[64,32] {
  %p.0 = bf16[64,32]{1,0:T(8,128)(2,1)} parameter(0)
  %p.1 = bf16[8,32]{1,0:T(8,128)(2,1)} parameter(1)
  %p.2 = u32[] parameter(2)
  %c.0 = u32[] constant(0)
  ROOT %dus = bf16[64,32]{1,0:T(8,128)(2,1)} dynamic-update-slice(%p.0, %p.1, %p.2, %c.0)
}

%all-reduce-scatter.1 (input: bf16[64,32]) -> bf16[8,32] {
  %input = bf16[64,32]{1,0} parameter(0)
  %all-reduce.9 = bf16[64,32]{1,0} all-reduce(%input), channel_id=3, replica_groups=[1,8]<=[8], use_global_device_ids=true, to_apply=%add
  %zero = s32[] constant(0)
  ROOT %cut = bf16[8,32]{1,0} dynamic-slice(%all-reduce.9, %zero, %zero), dynamic_slice_sizes={8,32}
}

%fused_dot (x.1: bf16[16,64], w.1: bf16[64,32]) -> bf16[16,32] {
  %x.1 = bf16[16,64]{1,0} parameter(0)
  %w.1 = bf16[64,32]{1,0} parameter(1)
  ROOT %conv = bf16[16,32]{1,0} convolution(%x.1, %w.1), dim_labels=bf_io->bf
}

%fused_layout (q: bf16[16,32]) -> bf16[32,16] {
  %q = bf16[16,32]{1,0} parameter(0)
  %flat = bf16[16,32]{1,0} bitcast(%q)
  ROOT %turned = bf16[32,16]{1,0} transpose(%flat), dimensions={1,0}
}

%body (state: (s32[], bf16[8,32], /*index=2*/bf16[16,64])) -> (s32[], bf16[8,32], bf16[16,64]) {
  %state = (s32[], bf16[8,32]{1,0}, /*index=2*/bf16[16,64]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %one = s32[]{:T(128)} constant(1)
  %next = s32[] add(%i, %one)
  %share = bf16[8,32]{1,0} get-tuple-element(%state), index=1
  %x = bf16[16,64]{1,0} get-tuple-element(%state), index=2
  %nil = bf16[] constant(0)
  %zeros = bf16[64,32]{1,0} broadcast(%nil), dimensions={}
  %me = u32[] partition-id()
  %padded = bf16[64,32]{1,0} fusion(%zeros, %share, /*index=2*/%me), kind=kLoop, calls=%fused_update
  %copy-start = (bf16[64,32]{1,0:S(1)}, bf16[64,32]{1,0}, u32[]{:S(2)}) copy-start(%padded)
  %copy-done = bf16[64,32]{1,0:S(1)} copy-done(%copy-start)
  %all-reduce.1 = (bf16[64,32]{1,0}, bf16[64,32]{1,0}) all-reduce(%copy-done, %zeros), channel_id=1, replica_groups=mesh['axis_0'=8] {'axis_0'}, use_global_device_ids=true, to_apply=%add
  %w = bf16[64,32]{1,0} get-tuple-element(%all-reduce.1), index=0
  %y = bf16[16,32]{1,0} fusion(%x, %w), kind=kOutput, calls=%fused_dot, metadata={op_name="jit(f)/while/body/dot_general"}
  %layout = bf16[32,16]{1,0} fusion(%y), kind=kLoop, calls=%fused_layout
  %small = s32[] copy(%next)
  %permute = (bf16[8,32]{1,0}, bf16[8,32]{1,0}, u32[], u32[]) collective-permute-start(%share), channel_id=2, source_target_pairs={{0,1},{1,0},{2,3},{3,2}}
  %permuted = bf16[8,32]{1,0} collective-permute-done(%permute)
  %splash_mha_fwd_residuals.3 = (bf16[2,16,128]{2,1,0}, f32[2,16,128]{2,1,0}) custom-call(%q4, %k4, %k4), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q\\": 16}"
}}, metadata={op_name="jit(f)/while/body/pallas_call"}
  %q4 = bf16[2,16,128]{2,1,0} constant({...})
  %k4 = bf16[2,24,128]{2,1,0} constant({...})
  %scattered = bf16[8,32]{1,0} fusion(%w), kind=kCustom, calls=%all-reduce-scatter.1
  ROOT %out = (s32[], bf16[8,32]{1,0}, bf16[16,64]{1,0}) tuple(%small, %scattered, %x)
}

%compare (l: s32[], r: s32[]) -> pred[] {
  %l = s32[] parameter(0)
  %r = s32[] parameter(1)
  ROOT %lt = pred[] compare(%l, %r), direction=LT
}

%condition (state.1: (s32[], bf16[8,32], bf16[16,64])) -> pred[] {
  %state.1 = (s32[], bf16[8,32]{1,0}, bf16[16,64]{1,0}) parameter(0)
  %counter = s32[] get-tuple-element(%state.1), index=0
  %limit = s32[] constant(40)
  ROOT %more = pred[] fusion(%counter, %limit), kind=kLoop, calls=%compare
}

ENTRY %main (p0: bf16[8,32], p1: bf16[16,64]) -> bf16[8,32] {
  %p0 = bf16[8,32]{1,0} parameter(0)
  %p1 = bf16[16,64]{1,0} parameter(1)
  %start = s32[] constant(START)
  %init = (s32[], bf16[8,32]{1,0}, bf16[16,64]{1,0}) tuple(%start, %p0, %p1)
  %while.1 = (s32[], bf16[8,32]{1,0}, bf16[16,64]{1,0}) while(%init), condition=%condition, body=%body, metadata={op_name="jit(f)/while"}
  ROOT %result = bf16[8,32]{1,0} get-tuple-element(%while.1), index=1
}
"""  # noqa: E501
MESH = {"data": 2, "fsdp": 4}
SHARE, FULL = 2 * 8 * 32, 2 * 64 * 32  # bytes


# One gather in three fusions, and a sum over two slices.
ASYNC = """
%start_part (a.1: f32[4,8]) -> (f32[4,8], f32[16,8]) {
  %a.1 = f32[4,8]{1,0} parameter(0)
  %g.1 = f32[16,8]{1,0} all-gather(%a.1), channel_id=1, replica_groups=[2,4]<=[8], dimensions={0}, frontend_attributes={chain_id="0"}
  ROOT %s = (f32[4,8]{1,0}, f32[16,8]{1,0}) custom-call(%g.1), custom_call_target="AsyncCollectiveStart"
}

%middle_part (a.2: f32[4,8], b.2: f32[16,8], c.2: f32[8,8]) -> (f32[16,8], f32[16,8]) {
  %a.2 = f32[4,8]{1,0} parameter(0)
  %b.2 = f32[16,8]{1,0} parameter(1)
  %c.2 = f32[8,8]{1,0} parameter(2)
  %g.2 = f32[16,8]{1,0} all-gather(%a.2), channel_id=1, replica_groups=[2,4]<=[8], dimensions={0}, frontend_attributes={chain_id="0"}
  %d.2 = f32[16,8]{1,0} dot(%b.2, %c.2), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %t.2 = (f32[16,8]{1,0}, f32[16,8]{1,0}) tuple(%d.2, %g.2)
}

%done_part (a.3: f32[4,8]) -> f32[16,8] {
  %a.3 = f32[4,8]{1,0} parameter(0)
  %g.3 = f32[16,8]{1,0} all-gather(%a.3), channel_id=1, replica_groups=[2,4]<=[8], dimensions={0}, frontend_attributes={chain_id="0"}
  ROOT %e = f32[16,8]{1,0} custom-call(%a.3, %g.3), custom_call_target="AsyncCollectiveDone"
}

ENTRY %main (p: f32[4,8], b: f32[16,8], w: f32[8,8]) -> f32[16,8] {
  %p = f32[4,8]{1,0} parameter(0)
  %b = f32[16,8]{1,0} parameter(1)
  %w = f32[8,8]{1,0} parameter(2)
  %start = (f32[4,8]{1,0}, f32[16,8]{1,0}) fusion(%p), kind=kCustom, calls=%start_part
  %middle = (f32[16,8]{1,0}, f32[16,8]{1,0}) fusion(%p, %b, %w), kind=kOutput, calls=%middle_part
  %after = token[] after-all()
  %send = (f32[4,8]{1,0}, u32[], token[]) send(%p, %after), channel_id=2, is_host_transfer=true, frontend_attributes={_xla_megascale_target="{1,2}x{0:7}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %sent = token[] send-done(%send), channel_id=2, is_host_transfer=true
  ROOT %done = f32[16,8]{1,0} fusion(%p), kind=kCustom, calls=%done_part
}
"""  # noqa: E501


def program(start=0):
  return hlo.parse(TPU.replace("START", str(start)))


def test_the_loop_turns_from_start_to_limit():
  (loop,) = loops(program())
  assert (loop.trips, loop.count) == (40, 40)
  (peeled,) = loops(program(start=1))
  assert peeled.trips == 39


def test_a_loop_may_count_down():
  text = TPU.replace("START", "40").replace("constant(40)", "constant(0)", 1)
  text = text.replace(
    "%start = s32[] constant(0)", "%start = s32[] constant(40)"
  )
  (loop,) = loops(hlo.parse(text.replace("=LT", "=GT")))
  assert loop.trips == 40


def test_a_known_trip_count_wins():
  known = '"known_trip_count":{"n":"7"}'
  text = TPU.replace("START", "0").replace(
    "body=%body,", "body=%body, backend_config={" + known + "},"
  )
  assert loops(hlo.parse(text))[0].trips == 7


def test_an_unknown_loop_counts_once():
  text = TPU.replace("START", "0").replace("constant(40)", "parameter(1)")
  (loop,) = loops(hlo.parse(text))
  assert (loop.trips, loop.count) == (None, 1)


def test_all_reduces_are_told_apart():
  found = {c.kind: c for c in collectives(program(), MESH)}
  assert set(found) == {
    "all-reduce gather", "all-reduce", "reduce-scatter", "collective-permute",
  }  # fmt: skip
  for c in found.values():
    assert c.count == 40 and c.loop.body == "body", c
  both = ("data", "fsdp")
  for kind in ("all-reduce gather", "all-reduce"):
    c = found[kind]
    assert (c.result, c.wire, c.axes) == (FULL, 2 * 7 / 8 * FULL, both)
  c = found["reduce-scatter"]
  assert (c.result, c.wire, c.axes) == (SHARE, 7 / 8 * FULL, both)
  c = found["collective-permute"]
  assert (c.result, c.wire, c.axes) == (SHARE, SHARE, ("fsdp",))
  assert [c.kind for c in found.values() if c.is_async] == [
    "collective-permute"
  ]


def test_an_asynchronous_gather_counts_once():
  gather, between = collectives(hlo.parse(ASYNC), MESH)
  assert (gather.kind, gather.count, gather.axes) == (
    "all-gather", 1, ("fsdp",),
  )  # fmt: skip
  assert gather.is_async and gather.result == 4 * 16 * 8
  assert (between.kind, between.axes) == ("dcn all-reduce", ("dcn",))
  assert between.wire == between.result == 4 * 4 * 8
  assert matmul.matmul_flops(hlo.parse(ASYNC)) == 2 * 16 * 8 * 8


def test_totals_sum_executions():
  sums = totals(collectives(program(), MESH), key=lambda c: c.axes)
  assert sums[("fsdp",)]["executed"] == 40
  assert sums[("data", "fsdp")]["static"] == 3
  assert sums[("data", "fsdp")]["wire"] == 40 * 5 * 7 / 8 * FULL


def test_a_mesh_of_another_size_is_an_error():
  with pytest.raises(ValueError, match="has 4"):
    collectives(program(), {"fsdp": 4})


def test_products_are_found_in_fusions():
  assert matmul.matmul_flops(program()) == 40 * 2 * 16 * 32 * 64


def test_kernels_have_names_shapes_and_flops():
  (kernel,) = kernels(program())
  assert (kernel.name, kernel.count) == ("splash_mha_fwd_residuals", 40)
  assert kernel.operands[1] == ("bf16", (2, 24, 128))
  product = 2 * 2 * 16 * 24 * 128
  assert splash_flops(kernel) == (2 * product, 0)


@pytest.mark.parametrize(
  "names, needed, recomputed",
  [
    (["splash_mha_fwd_residuals"], 2, 0),
    (["splash_mha_dq_no_residuals", "splash_mha_dkv_no_residuals"], 4, 3),
    (["splash_mha_dkv_dq_no_residuals"], 4, 1),
    (["vmap_splash_mha_dkv_dq_no_residuals__"], 4, 1),
  ],
)
def test_a_backward_pass_needs_four_products(names, needed, recomputed):
  product = 2 * 2 * 16 * 24 * 128
  texts = [TPU.replace("splash_mha_fwd_residuals", name) for name in names]
  found = [
    kernel_flops(hlo.parse(text.replace("START", "0"))) for text in texts
  ]
  totals = tuple(map(sum, zip(*found, strict=True)))
  assert totals == (40 * needed * product, 40 * recomputed * product)


def test_copies_are_those_that_move_and_do_nothing():
  (copy,) = copies(program(), min_bytes=100)
  assert (copy.kind, copy.bytes, copy.count) == ("fusion", 1024, 40)
  kinds = [c.kind for c in copies(program(), min_bytes=1)]
  assert kinds == ["fusion", "copy"]


def test_copies_to_the_host_have_their_own_kind():
  text = TPU.replace("START", "0").replace("S(1)", "S(5)")
  kinds = [c.kind for c in copies(hlo.parse(text), min_bytes=1000)]
  assert kinds == ["host", "fusion"]
  assert copies(hlo.parse(text), 1000)[0].bytes == FULL


def convolution(lhs, rhs, out, attributes):
  text = f"""ENTRY %main (a: {lhs}, b: {rhs}) -> {out} {{
  %a = {lhs} parameter(0)
  %b = {rhs} parameter(1)
  ROOT %c = {out} convolution(%a, %b), {attributes}
}}"""
  return matmul.matmul_flops(hlo.parse(text))


def test_padding_and_holes_do_no_work():
  """A batch of 3 products, as a window over a spatial axis of one element."""
  flops = convolution(
    "f32[3,4,5]", "f32[3,5,6]", "f32[3,4,6]",
    "window={size=3 stride=2 pad=0_0 lhs_dilate=3}, dim_labels=0bf_0io->0bf",
  )  # fmt: skip
  assert flops == 2 * 3 * 4 * 5 * 6


def test_a_contracted_window_counts_in_full():
  flops = convolution(
    "f32[2,4,5]", "f32[2,5,6]", "f32[1,4,6]",
    "window={size=2}, dim_labels=0bf_0io->0bf",
  )  # fmt: skip
  assert flops == 2 * 2 * 4 * 5 * 6


def test_reversed_outer_products_count_in_full():
  """As a TPU compiler writes x @ w with two rows in the spatial axis."""
  flops = convolution(
    "bf16[8,4,1]", "bf16[2,6,8]", "bf16[2,4,6]",
    "window={size=2 pad=1_1 rhs_reversal=1}, dim_labels=fb0_0oi->0bf",
  )  # fmt: skip
  assert flops == 2 * 2 * 4 * 6 * 8


def test_a_text_without_an_entry_is_an_error():
  with pytest.raises(ValueError, match="ENTRY"):
    hlo.parse("module @jit_f {}")

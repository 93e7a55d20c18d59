"""Waits for collectives, on programs written by hand."""

import pytest

from ccl_jax.cost import hlo
from ccl_jax.cost.overlap import exposed_seconds

# Each op is named by what it is: a core works for 3, 2 and 4 seconds.
TEXT = """
%gather (g: bf16[8]) -> bf16[16] {
  %g = bf16[8]{0} parameter(0)
  ROOT %all = bf16[16]{0} all-gather(%g), dimensions={0}
}, execution_thread="sparsecore"
%body (s: (s32[], bf16[8])) -> (s32[], bf16[8]) {
  %s = (s32[], bf16[8]) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %x = bf16[8]{0} get-tuple-element(%s), index=1
  %a-start = ((), bf16[16]) async-start(), calls=%gather
  %b-start = (bf16[8], bf16[8]) collective-permute-start(%x)
  %three = bf16[8]{0} negate(%x)
  %a-update = ((bf16[8]), bf16[16]) async-update(%a-start, %x)
  %a-done = bf16[16]{0} async-done(%a-update)
  %two = bf16[8]{0} negate(%three)
  %b-done = bf16[8]{0} collective-permute-done(%b-start)
  ROOT %t = (s32[], bf16[8]) tuple(%i, %two)
}
%cond (r: (s32[], bf16[8])) -> pred[] {
  %r = (s32[], bf16[8]) parameter(0)
  %j = s32[] get-tuple-element(%r), index=0
  %n = s32[] constant(5)
  ROOT %less = pred[] compare(%j, %n), direction=LT
}
ENTRY %main (p: bf16[8]) -> bf16[8] {
  %p = bf16[8]{0} parameter(0)
  %z = s32[] constant(0)
  %c-start = (bf16[8], bf16[8]) collective-permute-start(%p)
  %start = (s32[], bf16[8]) tuple(%z, %p)
  %w = (s32[], bf16[8]) while(%start), condition=%cond, body=%body
  %four = bf16[8]{0} negate(%p)
  %c-done = bf16[8]{0} collective-permute-done(%c-start)
  ROOT %y = bf16[8]{0} get-tuple-element(%w), index=1
}
"""
BUSY = {"three": 3.0, "two": 2.0, "four": 4.0}


@pytest.mark.parametrize(
  ("sent", "wait"),
  [
    ({}, 0),
    ({"a-start": 3.0}, 0),  # as long as what runs beside it
    ({"a-start": 3.5}, 5 * 0.5),  # in each of five trips
    ({"b-start": 5.0}, 0),
    ({"a-start": 3.0, "b-start": 4.0}, 5 * 2),  # one after the other
    ({"a-start": 4.0, "b-start": 2.0}, 5 * 1),  # the wait for a hides b
    ({"c-start": 29.0}, 0),  # a whole loop of 25 seconds, and four
    ({"c-start": 30.0}, 1),
  ],
)
def test_a_core_waits_for_what_no_work_hides(sent, wait):
  assert exposed_seconds(hlo.parse(TEXT), BUSY, sent) == pytest.approx(wait)

"""Tables of rules against files and models, and what an error lists."""

import jax
import jax.numpy as jnp
import pytest

from ccl_jax.convert import layouts, matching
from ccl_jax.convert.rules import Rule

TABLE = (
  Rule("blocks.{layer}.mlp.{i}.weight", "blocks/{i}/kernel", layouts.LINEAR),
  Rule("ends.{i}.bias", "ends/{i}/bias"),
  Rule(("g", "v"), "conv/kernel", layouts.weight_norm(layouts.CONV1D)),
  Rule("qkv", ("q", "k", "v"), layouts.QKV.then(layouts.each(layouts.LINEAR))),
  Rule("buffer.{i}", ours=()),
)


def shape(*size, dtype=jnp.float32):
  return jax.ShapeDtypeStruct(size, dtype)


THEIRS = {
  **{f"blocks.{n}.mlp.{i}.weight": shape(4, 3) for n in range(3) for i in "02"},
  "ends.0.bias": shape(5),
  "g": shape(4, 1, 1),
  "v": shape(4, 3, 7),
  "qkv": shape(12, 3),
  "buffer.0": shape(9, dtype=jnp.int32),
}
OURS = {
  **{f"blocks/{i}/kernel": shape(3, 3, 4) for i in "02"},
  "ends/0/bias": shape(5),
  "conv/kernel": shape(7, 3, 4),
  **{name: shape(3, 4) for name in "qkv"},
}


def complaint(theirs=THEIRS, ours=OURS, table=TABLE):
  with pytest.raises(ValueError) as found:
    matching.match(table, theirs, ours)
  return str(found.value)


def without(shapes, *names):
  return {name: x for name, x in shapes.items() if name not in names}


def test_every_array_and_every_parameter_once():
  assignments = matching.match(TABLE, THEIRS, OURS)
  used = [name for a in assignments for name in a.theirs]
  assert sorted(used) == sorted(without(THEIRS, "buffer.0"))
  filled = [(path, a.row) for a in assignments for path in a.ours]
  stacked = [(f"blocks/{i}/kernel", n) for i in "02" for n in range(3)]
  plain = [(path, None) for path in ("ends/0/bias", "conv/kernel", *"qkv")]
  assert sorted(filled, key=str) == sorted(stacked + plain, key=str)


def test_the_way_back_needs_no_file():
  assert matching.derive(TABLE, OURS) == matching.match(TABLE, THEIRS, OURS)


def test_what_is_ignored_may_be_absent():
  matching.match(TABLE, without(THEIRS, "buffer.0"), OURS)


def test_missing():
  text = complaint(without(THEIRS, "blocks.1.mlp.2.weight", "v"))
  assert "not in the file (2)" in text and "only in" not in text
  assert "blocks.1.mlp.2.weight for blocks/2/kernel" in text
  assert "v for conv/kernel" in text


def test_extra():
  text = complaint({**THEIRS, "lora.up": shape(2, 2)})
  assert "only in the file (1):\n  lora.up (2, 2)" in text
  assert "not in the file" not in text


def test_renamed_names_the_nearest_on_both_sides():
  theirs = without(THEIRS, "blocks.2.mlp.0.weight")
  text = complaint({**theirs, "blocks.2.mpl.0.weight": shape(4, 3)})
  assert "blocks.2.mpl.0.weight (4, 3); nearest: blocks.2.mlp.0.weight" in text
  assert (
    "blocks.2.mlp.0.weight for blocks/0/kernel; nearest: blocks.2.mpl" in text
  )


def test_another_layer_more_or_less():
  more = {f"blocks.3.mlp.{i}.weight": shape(4, 3) for i in "02"}
  assert "only in the file (2)" in complaint({**THEIRS, **more})
  deeper = {f"blocks/{i}/kernel": shape(4, 3, 4) for i in "02"}
  assert "not in the file (2)" in complaint(ours={**OURS, **deeper})


def test_wrong_shapes():
  text = complaint({**THEIRS, "ends.0.bias": shape(6), "qkv": shape(11, 3)})
  assert "another shape or type (2)" in text
  assert "ends.0.bias (6,) gives [(6,)], not ends/0/bias (5,)" in text
  assert "qkv (11, 3) for q (3, 4) + k (3, 4) + v (3, 4): split 3" in text
  text = complaint({**THEIRS, "g": shape(1, 1, 1)})
  assert "weight norm" in text and "expected (4, 1, 1)" in text


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.float8_e4m3fn])
def test_wrong_kinds_of_numbers(dtype):
  text = complaint({**THEIRS, "ends.0.bias": shape(5, dtype=dtype)})
  name = jnp.dtype(dtype).name
  assert f"ends.0.bias is {name}, ends/0/bias is float32" in text


def test_halves_are_floating_too():
  halves = shape(4, 3, 7, dtype=jnp.bfloat16)
  matching.match(TABLE, {**THEIRS, "v": halves}, OURS)


def test_tables_that_fill_twice_or_not_at_all():
  assert "parameters without a rule (1):\n  new (2,)" in complaint(
    ours={**OURS, "new": shape(2)}
  )
  again = (*TABLE, Rule("other.{i}", "ends/{i}/bias"))
  assert "several rules (1):\n  ends/0/bias" in complaint(table=again)
  again = (*TABLE, Rule("ends.{i}.bias", "more/{i}"))
  text = complaint(table=again, ours={**OURS, "more/0": shape(5)})
  assert "arrays used twice (1):\n  ends.0.bias" in text
  again = (*TABLE, Rule("ends.{i}.bias", ours=()))
  assert "used and ignored (1):\n  ends.0.bias" in complaint(table=again)
  text = complaint(ours=without(OURS, "k"))
  assert "made by a rule, but not in the model (1):\n  k" in text


def test_layers_that_are_not_stacked():
  table = (Rule("blocks.{layer}.b", "blocks/{layer}/b"),)
  theirs = {f"blocks.{i}.b": shape(2) for i in range(2)}
  ours = {f"blocks/{i}/b": shape(2) for i in range(2)}
  assignments = matching.match(table, theirs, ours)
  assert [a.row for a in assignments] == [None, None]


def test_misfit_tells_layouts_apart():
  other = (Rule("b.{i}", "ends/{i}/bias"),)
  ours = {"ends/0/bias": shape(5)}
  assert matching.count_differences(other, {"b.0": shape(5)}, ours) == 0
  assert matching.count_differences(TABLE, {"b.0": shape(5)}, ours) > 0


def test_long_differences_are_cut():
  extra = {f"more.{i}": shape(1) for i in range(50)}
  text = complaint({**THEIRS, **extra})
  assert "only in the file (50)" in text and len(text.splitlines()) < 15

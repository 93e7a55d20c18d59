"""The table of chips: names, kinds, and numbers that fit together."""

import types

import pytest

from ccl_jax.cost import chips


@pytest.mark.parametrize(
  "kind, name",
  [
    ("TPU v4", "v4"),
    ("TPU v5 lite", "v5e"),
    ("TPU v5", "v5p"),
    ("TPU v5p", "v5p"),
    ("TPU v6 lite", "v6e"),
    ("TPU7x", "tpu7x"),
    ("NVIDIA A100-SXM4-40GB", "a100-40g"),
    ("NVIDIA H100 80GB HBM3", "h100"),
    ("NVIDIA H200", "h200"),
  ],
)
def test_kinds_find_their_chip(kind, name):
  assert chips.chip_of(kind) is chips.chip_named(name)


def test_unknown_kinds_are_none_and_unknown_names_an_error():
  assert chips.chip_of("cpu") is None
  with pytest.raises(ValueError, match="v5p"):
    chips.chip_named("v9")


def test_topologies_name_their_chip():
  assert chips.chip_named("v6e:16x16").name == "v6e"


def test_rates_are_in_plain_units_and_in_order():
  for chip in chips.CHIPS.values():
    assert 1e14 < chip.peak < 1e16, chip
    assert 1e10 < chip.hbm < 1e12, chip
    assert chip.dcn < chip.ici < chip.hbm_rate, chip


def test_two_devices_of_a_chip_count_once():
  device = types.SimpleNamespace
  pair = [device(id=i, coords=(0, 0, 0), slice_index=0) for i in (0, 1)]
  far = [device(id=2, coords=(0, 0, 0), slice_index=1)]
  assert chips.count_chips(pair) == 1
  assert chips.count_chips(pair + far) == 2
  assert chips.count_chips([device(id=i) for i in range(3)]) == 3

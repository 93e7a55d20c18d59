"""Bounds are the arithmetic that they say."""

import dataclasses

from ccl_jax.cost.chips import Chip
from ccl_jax.cost.roofline import roofline

CHIP = Chip("c", (), peak=100.0, hbm=1.0, hbm_rate=50.0, ici=60.0, dcn=1.0)
WIRE = {("fsdp",): 120.0, ("fsdp", "context"): 60.0}


def bound(chip=CHIP, **options):
  options = dict(model_flops=300.0, hardware_flops=400.0, wire=WIRE) | options
  return roofline(chip, **options)


def test_times_and_mfu():
  assert bound() == {
    "compute": 4.0, "ici": 3.0, "ici/fsdp": 2.0, "ici/fsdp+context": 1.0,
    "step": 4.0, "mfu": 0.75, "limit": "compute",
    "serial": 7.0, "serial_mfu": 300 / 700,
  }  # fmt: skip


def test_what_spans_a_slice_goes_over_dcn():
  r = bound(dcn_axes=("context",))
  assert r["dcn"] == 60.0
  assert r["ici"] == 2.0
  assert r["limit"] == "dcn"


def test_two_devices_share_a_chip():
  r, half = bound(), bound(dataclasses.replace(CHIP, devices=2))
  assert half["step"] == 2 * r["step"]
  assert half["mfu"] == r["mfu"]

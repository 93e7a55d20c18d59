"""Tables in Markdown."""

import json

from ccl_jax.metrics import tables
from ccl_jax.metrics.bootstrap import Score


def test_table_prints_rows_beside_each_other_and_rows_are_json():
  score = Score(0.8, 0.7, 0.9)
  rows = {"truth": {"EAC": score, "SER": score}, "model": {"EAC": score}}
  assert tables.table(rows).splitlines() == [
    "|  | EAC | SER |",
    "| --- | ---: | ---: |",
    "| truth | 0.80 ±0.10 | 0.80 ±0.10 |",
    "| model | 0.80 ±0.10 | - |",
  ]
  assert json.loads(json.dumps(rows))["model"]["EAC"] == [0.8, 0.7, 0.9]

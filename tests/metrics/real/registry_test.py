"""Metrics that are absent, misspelt or broken, and their lines of the table."""

import numpy as np
import pytest

from ccl_jax.metrics.real import registry, report
from ccl_jax.metrics.real.metric import Column, Metric, Options, Scorer
from ccl_jax.metrics.real.rows import FAILED, Features, RowFile

ALL = list(registry.METRICS)


def test_every_metric_says_what_it_lacks(monkeypatch, tmp_path):
  """With no package and no weights, only what is our own runs."""
  import importlib

  real = importlib.import_module

  def import_module(name):
    if name.startswith("ccl_jax"):
      return real(name)
    raise ImportError(name)

  monkeypatch.setattr(importlib, "import_module", import_module)
  monkeypatch.setattr(importlib.metadata, "files", lambda _: None)
  opened = registry.open_metrics(ALL, Options(tmp_path))
  assert opened.scorers.keys() == {"sound", "pictures"}
  assert opened.not_run.keys() == set(ALL) - {"sound", "pictures"}
  for reason in opened.not_run.values():
    assert reason.startswith(("pip install ", "put ", "name a face detector"))


def test_a_package_that_breaks_on_import_is_no_stop(monkeypatch):
  import importlib

  def fail(_):
    raise RuntimeError("libfoo.so: undefined\nsymbol")

  monkeypatch.setattr(importlib, "import_module", fail)
  opened = registry.open_metrics(["loudness"], Options())
  reason = opened.not_run["loudness"]
  assert reason.startswith("pip install pyloudnorm (RuntimeError: libfoo.so")
  assert "\n" not in reason


def test_weights_of_another_model_are_no_stop(tmp_path):
  import torch

  torch.save({"a": torch.zeros(2)}, tmp_path / "syncnet_v2.model")
  faces = "ccl_jax.metrics.real.faces:whole_picture"
  opened = registry.open_metrics(["sync"], Options(tmp_path, faces=faces))
  assert "is not SyncNet's" in opened.not_run["sync"]


def test_unknown_names_are_told_with_the_nearest():
  with pytest.raises(ValueError, match=r"'sonud'.* mean 'sound'"):
    registry.check_names(["wer", "sonud"])
  with pytest.raises(ValueError, match="No metrics"):
    registry.check_names([])


METRIC = Metric(
  needs=(),
  columns={"rate": Column("", "lower"), "corpus": Column(), "far": Column()},
  open=lambda _: Scorer(lambda clip: {}),
  totals=lambda scores: {"corpus": float(sum(s["words"] for s in scores))},
  compare=lambda a, b: {"far": float(abs(a.mean() - b.mean()))},
)


def make_rows(values):
  return [
    {
      "file": f"{i}.mp4", "sha256": f"{i}{value}", "not_measured": {},
      "scores": {"m": {"rate": value, "words": i}},
    }
    for i, value in enumerate(values)
  ]  # fmt: skip


def test_means_totals_and_clips_that_are_not_measured():
  rows = make_rows([1.0, 2.0, 6.0])
  for i, reason in enumerate(["silent", "silent", f"{FAILED}2", f"{FAILED}3"]):
    row = {"file": f"x{i}", "scores": {}, "not_measured": {"m": reason}}
    rows.append(row)
  found = report.summarize("m", METRIC, rows)
  assert found["rate"].value == 3 and found["rate"].clips == 3
  assert 1 < found["rate"].interval < 3
  assert found["corpus"].value == 3
  table = report.make_table(
    {"m": METRIC, "n": METRIC}, {"m": found}, None, rows, {"n": "pip | x"}
  )
  lines = table.splitlines()
  assert "| m rate | lower | 3 ±" in lines[2]
  assert "2: silent" in lines[2] and f"2: {FAILED}2" in lines[2]
  assert lines[-1] == "| n |  | not run: pip / x | 0 |  |"
  assert len({line.count("|") for line in lines}) == 1


def test_sets_are_compared_by_features_on_disk(tmp_path):
  features = Features(tmp_path)
  ours, theirs = make_rows([1.0, 3.0]), make_rows([10.0, 12.0])
  for row in ours + theirs:
    features.save("m", row["sha256"], np.array([row["scores"]["m"]["rate"]]))
  found = report.compare("m", METRIC, ours, theirs, features)
  assert found["far"].value == 9
  assert report.compare("m", METRIC, ours[:1], theirs, features) == {}


def test_rows_of_an_interrupted_run_are_kept(tmp_path):
  path = tmp_path / "scores.jsonl"
  first = RowFile(path)
  for row in make_rows([1.0, 2.0]):
    first.add(row | {"caption": "", "not_measured": {"n": f"{FAILED}x"}})
  (partial,) = tmp_path.iterdir()
  partial.write_text(partial.read_text()[:-20])  # killed within a line
  again = RowFile(path)
  assert list(again.rows) == ["0.mp4"]
  row = again.reuse("0.mp4", "01.0", "")
  assert row["scores"]["m"]["rate"] == 1 and row["not_measured"] == {}
  for other in (("0.mp4", "other", ""), ("0.mp4", "01.0", "another")):
    assert again.reuse(*other)["scores"] == {}
  assert RowFile(path, stale={"m"}).reuse("0.mp4", "01.0", "")["scores"] == {}
  again.finish(["0.mp4"])
  assert [file.name for file in tmp_path.iterdir()] == ["scores.jsonl"]

"""The adapter of audiobox_aesthetics, with a package in its place."""

import importlib
import importlib.metadata
import types

import numpy as np

from ccl_jax.metrics.real.aesthetics import AESTHETICS
from ccl_jax.metrics.real.metric import MeasuredClip, Options


class Predictor:
  """Answers as the package does: a row for each sound, upper-case axes."""

  def forward(self, rows):
    (row,) = rows
    assert row["sample_rate"] == 16_000 and tuple(row["path"].shape) == (1, 800)
    return [{"CE": 1.0, "CU": 2.0, "PC": 3.0, "PQ": row["path"].mean().item()}]


def test_axes_of_a_clip(monkeypatch, tmp_path):
  real = importlib.import_module
  opened = []

  def initialize_predictor(ckpt):
    opened.append(ckpt)
    return Predictor()

  package = types.SimpleNamespace(initialize_predictor=initialize_predictor)
  fakes = {"audiobox_aesthetics.infer": package}
  monkeypatch.setattr(
    importlib, "import_module", lambda name: fakes.get(name) or real(name)
  )
  monkeypatch.setattr(importlib.metadata, "version", lambda name: "1")
  (tmp_path / "checkpoint.pt").write_bytes(b"weights")
  scorer = AESTHETICS.open(Options(tmp_path))
  clip = MeasuredClip("a.wav", audio=np.full(800, 0.5, np.float32))
  assert scorer.measure(clip) == {"ce": 1, "cu": 2, "pc": 3, "pq": 0.5}
  assert opened == [str(tmp_path / "checkpoint.pt")]
  assert len(scorer.protocol["sha256"]) == 64

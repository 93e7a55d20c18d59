"""Meta's AudioBox Aesthetics by its own package, each axis from 1 to 10.

  pq  production quality    cu  content usefulness
  ce  content enjoyment     pc  production complexity, neither end is better

The package cuts sound into windows of 10 s; a short clip fills only a part of
one. It pins its version of PyTorch, so it may need its own environment.
"""

from ccl_jax.metrics.real.metric import (
  SAMPLE_RATE,
  Column,
  MeasuredClip,
  Metric,
  Options,
  Scorer,
  file_hash,
  require,
  versions,
)


def _open(options: Options) -> Scorer:
  torch = require("torch", "torch audiobox_aesthetics")
  infer = require("audiobox_aesthetics.infer", "torch audiobox_aesthetics")
  path = options.find("audiobox_aesthetics.pt", "checkpoint.pt")
  predictor = infer.initialize_predictor(ckpt=str(path))

  def measure(clip: MeasuredClip) -> dict[str, float]:
    sound = torch.from_numpy(clip.audio[None].copy())
    rows = [{"path": sound, "sample_rate": SAMPLE_RATE}]
    found = predictor.forward(rows)[0]
    return {axis.lower(): float(value) for axis, value in found.items()}

  protocol = versions("audiobox_aesthetics", "torch")
  return Scorer(measure, protocol | {"sha256": file_hash(path)})


AESTHETICS = Metric(
  needs=("audio",),
  columns=dict.fromkeys(("pq", "cu", "ce"), Column("1-10", "higher"))
  | {"pc": Column("1-10")},
  open=_open,
)

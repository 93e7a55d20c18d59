"""CLAP by transformers: sound against caption, and a Frechet distance.

  similarity  cosine of the embeddings of the sound and of the whole caption
  fad         Frechet distance of the sound's embeddings to the reference's

The folder is that of laion/clap-htsat-unfused (or -fused). Sound is resampled
to 48 kHz here, as its processor does not resample; the processor cuts sound to
its first 10 s, or repeats it.
"""

from typing import Any

import librosa
import numpy as np

from ccl_jax.metrics.real.frechet import frechet_distance
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

_FOLDERS = ("clap-htsat-unfused", "clap-htsat-fused")


def _open(options: Options) -> Scorer:
  require("torch", "torch transformers")
  transformers = require("transformers", "torch transformers")
  folder = options.find(*_FOLDERS)
  model = transformers.ClapModel.from_pretrained(folder).eval()
  model.requires_grad_(False)
  processor = transformers.ClapProcessor.from_pretrained(folder)
  rate = processor.feature_extractor.sampling_rate

  def measure(clip: MeasuredClip) -> dict[str, Any]:
    sound = librosa.resample(clip.audio, orig_sr=SAMPLE_RATE, target_sr=rate)
    inputs = processor(
      text=[clip.caption or "sound"], audio=[sound], sampling_rate=rate,
      return_tensors="pt", padding=True, truncation=True,
    )  # fmt: skip
    found = model(**inputs)
    audio = found.audio_embeds.numpy()[0]
    scores: dict[str, Any] = {"features": audio}
    if clip.caption:
      text = found.text_embeds.numpy()[0]
      norms = np.linalg.norm(audio) * np.linalg.norm(text)
      scores["similarity"] = float(audio @ text / norms)
    return scores

  protocol = versions("transformers", "torch", "librosa")
  protocol |= {"model": folder.name, "sha256": file_hash(folder)}
  return Scorer(measure, protocol | {"sample_rate": rate})


def compare(features: np.ndarray, reference: np.ndarray) -> dict[str, float]:
  """Returns the Frechet distance of the sound's embeddings."""
  return {"fad": frechet_distance(features, reference)}


CLAP = Metric(
  needs=("audio",),
  columns={
    "similarity": Column("cosine", "higher"),
    "fad": Column("", "lower"),
  },
  open=_open,
  compare=compare,
)

"""Loudness, speech quality and speech share, by models inside packages.

loudness  ITU-R BS.1770-4 by pyloudnorm, of the mono sound at 16 kHz
dnsmos    DNSMOS P.835 and P.808 by speechmos; the package repeats sound
          shorter than 9.01 s
speech    share of windows of 32 ms that silero-vad calls speech, by the ONNX
          file in its package (whose own module needs PyTorch)
"""

import importlib.metadata
import pathlib

import numpy as np
from jaxtyping import Float

from ccl_jax.metrics.real.metric import (
  SAMPLE_RATE,
  Column,
  MeasuredClip,
  Metric,
  NotMeasuredError,
  NotRunError,
  Options,
  Scorer,
  file_hash,
  require,
  versions,
)

_LOUDNESS_SECONDS = 0.4  # one gating block
_VAD_WINDOW, _VAD_CONTEXT = 512, 64  # samples
_DNSMOS = ("ovrl", "sig", "bak", "p808")
VAD_THRESHOLD = 0.5


def _open_loudness(_: Options) -> Scorer:
  pyloudnorm = require("pyloudnorm", "pyloudnorm")
  meter = pyloudnorm.Meter(SAMPLE_RATE)

  def measure(clip: MeasuredClip) -> dict[str, float]:
    if len(clip.audio) <= _LOUDNESS_SECONDS * SAMPLE_RATE:
      raise NotMeasuredError("shorter than 0.4 s")
    _require_sound(clip.audio)
    lufs = float(meter.integrated_loudness(clip.audio.astype(np.float64)))
    if not np.isfinite(lufs):
      raise NotMeasuredError("silent (below -70 LUFS)")
    return {"lufs": lufs}

  return Scorer(measure, versions("pyloudnorm"))


def _open_dnsmos(_: Options) -> Scorer:
  install = "speechmos onnxruntime requests"
  require("onnxruntime", install)
  dnsmos = require("speechmos.dnsmos", install)

  def measure(clip: MeasuredClip) -> dict[str, float]:
    _require_sound(clip.audio)
    audio = np.clip(clip.audio, -1, 1).astype(np.float32)
    found = dnsmos.run(audio, SAMPLE_RATE)
    return {name: float(found[f"{name}_mos"]) for name in _DNSMOS}

  return Scorer(measure, versions("speechmos", "onnxruntime"))


def speech_probability(
  session, audio: Float[np.ndarray, " s"]
) -> Float[np.ndarray, " n"]:
  """Returns silero's probability of speech in each window of 32 ms.

  Args:
    session: onnxruntime's, of silero_vad.onnx.
  """
  num = -(-len(audio) // _VAD_WINDOW)
  padded = np.zeros((num * _VAD_WINDOW + _VAD_CONTEXT,), np.float32)
  padded[_VAD_CONTEXT : _VAD_CONTEXT + len(audio)] = audio
  state = np.zeros((2, 1, 128), np.float32)
  found = []
  for start in range(0, num * _VAD_WINDOW, _VAD_WINDOW):
    window = padded[None, start : start + _VAD_CONTEXT + _VAD_WINDOW]
    inputs = {"input": window, "state": state, "sr": np.array(SAMPLE_RATE)}
    probability, state = session.run(None, inputs)
    found.append(probability.item())
  return np.array(found)


def _open_speech(_: Options) -> Scorer:
  install = "onnxruntime && pip install --no-deps silero-vad"
  onnxruntime = require("onnxruntime", install)
  path = _find_silero(install)
  options = onnxruntime.SessionOptions()
  options.intra_op_num_threads = options.inter_op_num_threads = 1
  session = onnxruntime.InferenceSession(str(path), options)

  def measure(clip: MeasuredClip) -> dict[str, float]:
    probability = speech_probability(session, clip.audio)
    return {"share": float((probability > VAD_THRESHOLD).mean())}

  protocol = versions("silero-vad", "onnxruntime")
  protocol |= {"sha256": file_hash(path), "threshold": VAD_THRESHOLD}
  return Scorer(measure, protocol)


def _find_silero(install: str) -> pathlib.Path:
  """Returns the model's file without importing its package."""
  try:
    files = importlib.metadata.files("silero-vad") or ()
  except importlib.metadata.PackageNotFoundError as error:
    raise NotRunError(f"pip install {install}") from error
  found = [x for x in files if x.name == "silero_vad.onnx"]
  if not found:
    raise NotRunError(f"pip install {install}: this silero-vad has no ONNX")
  return pathlib.Path(found[0].locate())


def _require_sound(audio: Float[np.ndarray, " s"]) -> None:
  """Raises NotMeasuredError if all samples are zero, or there are none."""
  if not np.any(audio):
    raise NotMeasuredError("silent")


LOUDNESS = Metric(
  needs=("audio",), columns={"lufs": Column("LUFS")}, open=_open_loudness
)
DNSMOS = Metric(
  needs=("audio",),
  columns=dict.fromkeys(_DNSMOS, Column("1-5", "higher")),
  open=_open_dnsmos,
)
SPEECH = Metric(
  needs=("audio",), columns={"share": Column()}, open=_open_speech
)

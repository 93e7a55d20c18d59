"""Speech recognisers: audio at 16 kHz -> text.

pocketsphinx    its English model is in the package; fit for clean speech only
faster-whisper  a CTranslate2 folder, such as Systran/faster-whisper-large-v3
transformers    Whisper's folder, such as openai/whisper-large-v3, and PyTorch
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ccl_jax.metrics.real.metric import (
  SAMPLE_RATE,
  Options,
  file_hash,
  require,
  versions,
)


class Transcriber(NamedTuple):
  """A function from mono sound at 16 kHz to text, and what it is."""

  transcribe: Callable[[Float[np.ndarray, " s"]], str]
  protocol: dict[str, Any]


def _open_pocketsphinx(_: Options) -> Transcriber:
  pocketsphinx = require("pocketsphinx", "pocketsphinx")

  def transcribe(audio: Float[np.ndarray, " s"]) -> str:
    # A new one for each clip, as it adapts to what it has heard before.
    decoder = pocketsphinx.Decoder(samprate=SAMPLE_RATE, loglevel="FATAL")
    decode(decoder, audio)
    found = decoder.hyp()
    return found.hypstr if found else ""

  return Transcriber(transcribe, versions("pocketsphinx"))


def decode(decoder: Any, audio: Float[np.ndarray, " s"]) -> None:
  """Runs a decoder of pocketsphinx over one sound."""
  samples = np.round(np.clip(audio, -1, 1) * 32767).astype("<i2")
  decoder.start_utt()
  decoder.process_raw(samples.tobytes(), full_utt=True)
  decoder.end_utt()


def _open_faster_whisper(options: Options) -> Transcriber:
  package = require("faster_whisper", "faster-whisper")
  folder = options.find("faster-whisper-large-v3", "faster-whisper")
  model = package.WhisperModel(str(folder))

  def transcribe(audio: Float[np.ndarray, " s"]) -> str:
    segments, _ = model.transcribe(audio.astype(np.float32))
    return " ".join(segment.text.strip() for segment in segments)

  protocol = versions("faster-whisper") | {"sha256": file_hash(folder)}
  return Transcriber(transcribe, protocol | {"model": folder.name})


def _open_transformers(options: Options) -> Transcriber:
  require("torch", "torch transformers")
  transformers = require("transformers", "torch transformers")
  folder = options.find("whisper-large-v3", "whisper")
  recognise = transformers.pipeline(
    "automatic-speech-recognition", model=str(folder)
  )

  def transcribe(audio: Float[np.ndarray, " s"]) -> str:
    sound = {"raw": audio.astype(np.float32), "sampling_rate": SAMPLE_RATE}
    # Timestamps let it read more than 30 s, window by window.
    return recognise(sound, return_timestamps=True)["text"].strip()

  protocol = versions("transformers", "torch") | {"sha256": file_hash(folder)}
  return Transcriber(transcribe, protocol | {"model": folder.name})


TRANSCRIBERS: dict[str, Callable[[Options], Transcriber]] = {
  "pocketsphinx": _open_pocketsphinx,
  "faster-whisper": _open_faster_whisper,
  "transformers": _open_transformers,
}

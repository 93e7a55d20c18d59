"""Word error rate of what is said against the quoted words of the caption.

Both texts go through Whisper's English normaliser. If the caption has Chinese,
Japanese or Korean, they go through its basic normaliser, and each character is
a word. A clip's rate is (substitutions + deletions + insertions) / words, which
may exceed 1; the corpus rate is that of the sums over clips.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ccl_jax.codecs.quotation import normalize_quotes
from ccl_jax.metrics.real.metric import (
  Column,
  MeasuredClip,
  Metric,
  NotMeasuredError,
  Options,
  Scorer,
  require,
  versions,
)
from ccl_jax.metrics.real.transcribers import TRANSCRIBERS

# Kana, ideographs and Hangul.
_CHARACTERS = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")


def spoken_words(caption: str) -> str:
  """Returns the text in quotation marks.

  >>> spoken_words('A man waves. "Hello there!" Wind. "Bye."')
  'Hello there! Bye.'
  """
  return " ".join(re.findall('"([^"]*)"', normalize_quotes(caption))).strip()


def make_normalizer() -> Callable[[str, bool], str]:
  """Returns (text, are characters words) -> words separated by spaces.

  Raises:
    NotRunError: whisper-normalizer is not installed.
  """
  install = "jiwer whisper-normalizer"
  english = require("whisper_normalizer.english", install)
  basic = require("whisper_normalizer.basic", install)
  by_word = english.EnglishTextNormalizer()
  by_character = basic.BasicTextNormalizer(split_letters=True)
  return lambda text, split: " ".join(
    (by_character if split else by_word)(text).split()
  )


def count_errors(reference: str, found: str) -> dict[str, int | float]:
  """Returns errors, words and their ratio "wer", of normalised texts.

  Args:
    reference: has a word.

  Raises:
    NotRunError: jiwer is not installed.
  """
  jiwer = require("jiwer", "jiwer whisper-normalizer")
  aligned = jiwer.process_words(reference, found)
  errors = aligned.substitutions + aligned.deletions + aligned.insertions
  words = len(reference.split())
  return {"errors": errors, "words": words, "wer": errors / words}


def corpus_rate(scores: Sequence[Mapping[str, Any]]) -> dict[str, float]:
  """Returns the errors of all clips over the words of all clips."""
  words = sum(score["words"] for score in scores)
  return {"corpus_wer": sum(score["errors"] for score in scores) / words}


def _open(options: Options) -> Scorer:
  require("jiwer", "jiwer whisper-normalizer")
  normalize = make_normalizer()
  transcriber = TRANSCRIBERS[options.asr](options)

  def measure(clip: MeasuredClip) -> dict[str, Any]:
    wanted = spoken_words(clip.caption)
    split = bool(_CHARACTERS.search(wanted))
    reference = normalize(wanted, split)
    if not re.search(r"\w", reference):
      raise NotMeasuredError("no spoken words in the caption")
    text = transcriber.transcribe(clip.audio)
    scores = count_errors(reference, normalize(text, split))
    return scores | {"heard": text}

  protocol = versions("jiwer", "whisper-normalizer")
  protocol |= {"asr": options.asr, **transcriber.protocol}
  return Scorer(
    measure, protocol | {"normalizer": "Whisper's; CJK by character"}
  )


WER = Metric(
  needs=("audio",),
  columns={
    "corpus_wer": Column("", "lower"),
    "wer": Column("", "lower"),
  },
  open=_open,
  totals=corpus_rate,
)

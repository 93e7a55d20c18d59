"""Scores of clips of English speech (`data.synthetic.english`).

WER     errors in the words that pocketsphinx hears / words of the prompt
phones  share of the true phones that are heard within 80 ms of their time
EAC ... as in `synchworld`, between the mouth's opening in the pixels and the
        opening that belongs to the phones heard

The phones heard are those of pocketsphinx's forced alignment of the sound with
the prompt's words; if the alignment fails, no phone is in time. True phones are
known if a stream is given. A clip without a face, or whose sound cannot be
aligned, scores as unrelated streams do. Scores are fractions (total, count), as
in `synchworld`.
"""

import difflib
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, UInt8

from ccl_jax.data.synthetic.english import Phone, mouth_of
from ccl_jax.metrics import synchworld, tracks
from ccl_jax.metrics.real import transcribers, words
from ccl_jax.metrics.real.metric import (
  SAMPLE_RATE,
  NotRunError,
  Options,
  require,
)

WINDOW = 0.08  # seconds
_FRAME = 0.01  # of pocketsphinx
# Names of one sound, of flite and of the dictionary.
_SAME = {"ax": "ah"}
# video, audio, fps, prompt, true phones if they are known -> scores
Measure = Callable[..., synchworld.ClipScores]


def open_measure() -> Measure:
  """Returns `measure` with its recogniser; ValueError without its package."""
  try:
    transcriber = transcribers.TRANSCRIBERS["pocketsphinx"](Options())
    normalize = words.make_normalizer()
    require("jiwer", "jiwer whisper-normalizer")
  except NotRunError as error:
    raise ValueError(f"English speech cannot be scored: {error}.") from error

  def measure(
    prompt: str,
    video: UInt8[np.ndarray, "t y x 3"] | None,
    audio: Float[np.ndarray, " s"] | None,
    fps: float = 25.0,
    phones: Sequence[Phone] | None = None,
  ) -> synchworld.ClipScores:
    """Returns the scores of one clip; none without sound.

    Args:
      audio: at 16 kHz.
    """
    reference = normalize(words.spoken_words(prompt), False)
    if audio is None or not reference:
      return {}
    audio = np.nan_to_num(audio)
    text = normalize(transcriber.transcribe(audio), False)
    found = words.count_errors(reference, text)
    scores = {"WER": (float(found["errors"]), found["words"])}
    heard = align(audio, reference)
    if phones is not None:
      scores["phones"] = (float(count_in_time(heard, phones)), len(phones))
    if video is not None:
      scores |= synchrony_scores(video, heard, fps)
    return scores

  return measure


def align(audio: Float[np.ndarray, " s"], text: str) -> list[Phone]:
  """Returns the phones of a text where they are heard; [] if they are not.

  Args:
    text: words of pocketsphinx' dictionary.
  """
  import pocketsphinx

  # Words of the best path are at times too short for the phones' pass.
  decoder = pocketsphinx.Decoder(
    samprate=SAMPLE_RATE, loglevel="FATAL", bestpath=False
  )
  try:
    decoder.set_align_text(text)
    transcribers.decode(decoder, audio)  # Finds the words,
    decoder.set_alignment()
    transcribers.decode(decoder, audio)  # and then their phones.
    found = [phone for word in decoder.get_alignment() for phone in word]
  except (RuntimeError, TypeError):  # An unknown word, or it is not heard.
    return []
  return [
    Phone(x.name.lower(), x.start * _FRAME, (x.start + x.duration) * _FRAME)
    for x in found
    if x.name.isalpha() and x.name != "SIL"
  ]


def count_in_time(heard: Sequence[Phone], true: Sequence[Phone]) -> int:
  """Returns how many true phones are heard, in order, within WINDOW."""
  names = [[_SAME.get(x.name, x.name) for x in row] for row in (heard, true)]
  matcher = difflib.SequenceMatcher(None, *names, autojunk=False)
  apart = [
    abs(heard[a + i].start - true[b + i].start)
    for a, b, size in matcher.get_matching_blocks()
    for i in range(size)
  ]
  return len([x for x in apart if x <= WINDOW])


def synchrony_scores(
  video: UInt8[np.ndarray, "t y x 3"], heard: Sequence[Phone], fps: float
) -> synchworld.ClipScores:
  """Returns `synchworld.synchrony_scores` of the mouth and the phones."""
  face, opening = tracks.find_face(video), np.zeros(len(video))
  if face:
    opening = tracks.mouth_opening(video, face)
  height, width = mouth_of(tuple(heard), np.arange(len(video)) / fps)
  return synchworld.synchrony_scores(opening, height * width, fps)

"""Word error rate: the arithmetic by hand, and a voice that says nothing."""

import numpy as np
import pytest

from ccl_jax.metrics.real import transcribers, words
from ccl_jax.metrics.real.metric import MeasuredClip, NotMeasuredError, Options


def test_errors_by_hand():
  """One substitution, one deletion and two insertions of five words."""
  found = words.count_errors("a b c d e", "a x c e f g")
  assert found == {"errors": 4, "words": 5, "wer": 0.8}


def test_the_corpus_rate_weighs_clips_by_words():
  scores = [{"errors": 1, "words": 1}, {"errors": 0, "words": 9}]
  assert words.corpus_rate(scores) == {"corpus_wer": 0.1}


@pytest.mark.parametrize(
  "caption, expected",
  [
    ('A man. "Hello there!" Wind. "Bye."', "Hello there! Bye."),
    ("A man says \u201cHi\u201d.", "Hi"),
    ('A 6" pipe.', ""),
    ("", ""),
  ],
)
def test_quoted_words_are_spoken(caption, expected):
  assert words.spoken_words(caption) == expected


def scorer(monkeypatch, heard):
  """A metric whose listener hears this."""
  found = transcribers.Transcriber(lambda audio: heard, {"model": "a fake"})
  monkeypatch.setitem(
    transcribers.TRANSCRIBERS, "pocketsphinx", lambda _: found
  )
  return words.WER.open(Options())


def clip(caption):
  return MeasuredClip("a.wav", caption, audio=np.ones(16_000, np.float32))


@pytest.mark.parametrize(
  "caption, heard, wer",
  [
    ("\"It's 5 o'clock, Mr. Smith!\"", "it is five o'clock mister smith", 0),
    ('"Colour"', "color", 0),
    ('"Hello there"', "", 1),
    ('"Hello"', "hello hello hello", 2),
    ('"\u4f60\u597d\u5417"', "\u4f60\u597d", 1 / 3),
  ],
)
def test_texts_are_normalised(monkeypatch, caption, heard, wer):
  found = scorer(monkeypatch, heard).measure(clip(caption))
  assert found["wer"] == pytest.approx(wer) and found["heard"] == heard


@pytest.mark.parametrize("caption", ["A dog barks.", '"..."', ""])
def test_clips_without_words_are_left_out(monkeypatch, caption):
  with pytest.raises(NotMeasuredError, match="no spoken words"):
    scorer(monkeypatch, "hello").measure(clip(caption))


def test_the_protocol_names_who_listens(monkeypatch):
  protocol = scorer(monkeypatch, "").protocol
  assert protocol["asr"] == "pocketsphinx" and protocol["model"] == "a fake"
  assert {"jiwer", "whisper-normalizer", "normalizer"} <= protocol.keys()


def test_pocketsphinx_runs_and_depends_on_the_clip_alone():
  transcribe = transcribers.TRANSCRIBERS["pocketsphinx"](Options()).transcribe
  rng = np.random.default_rng(0)
  first = rng.normal(0, 0.1, 8000).astype(np.float32)
  once = transcribe(first)
  transcribe(np.zeros(4000, np.float32))
  assert transcribe(first) == once

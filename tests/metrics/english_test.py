"""Scores of English clips, of which all is planted."""

import dataclasses

import numpy as np
import pytest

from ccl_jax.data.synthetic import english as speech
from ccl_jax.data.synthetic.english import Phone
from ccl_jax.metrics import english, synchworld
from ccl_jax.metrics.real import transcribers
from ccl_jax.metrics.real.metric import NotRunError
from ccl_jax.metrics.real.transcribers import Transcriber
from tests.data.synthetic.english_test import SPOKEN

PROMPT = 'A red face talks. "A map." A clear voice.'
START = 1.0
PHONES = SPOKEN.phones_at(START)


@pytest.fixture(scope="module")
def clip():
  scene = speech.silent_scene(2, True, 2.92, "round")
  return speech.place(SPOKEN, START, scene)


@pytest.fixture
def measure(monkeypatch):
  """Hears `heard.text`, and its phones at `heard.phones`."""

  @dataclasses.dataclass
  class Heard:
    text: str = "a map"
    phones: tuple = PHONES

  heard = Heard()
  fake = Transcriber(lambda audio: heard.text, {})
  monkeypatch.setitem(transcribers.TRANSCRIBERS, "pocketsphinx", lambda _: fake)
  monkeypatch.setattr(english, "align", lambda *_: list(heard.phones))
  function = english.open_measure()
  return lambda *x, **options: function(*x, **options), heard


def delayed(phones, seconds):
  return tuple(Phone(x, a + seconds, b + seconds) for x, a, b in phones)


def test_truth_has_all_scores_at_their_best(measure, clip):
  score, _ = measure
  found = score(PROMPT, speech.render(clip, 73), clip.sound, 25.0, PHONES)
  assert found["WER"] == (0, 2) and found["phones"] == (4, 4)
  assert found["EAC"][0] > 0.98 and found["lag ms"][0] < 5


@pytest.mark.parametrize("frames", [-5, -1, 3])
def test_a_delay_of_the_sound_is_the_lag_that_is_found(measure, clip, frames):
  score, heard = measure
  heard.phones = delayed(PHONES, frames / 25)
  found = score(PROMPT, speech.render(clip, 73), clip.sound, 25.0, PHONES)
  assert found["lag ms"][0] == pytest.approx(40 * abs(frames), abs=8)
  assert found["phones"] == (4 if abs(frames) == 1 else 0, 4)


def test_other_words_and_missing_ones_are_errors(measure, clip):
  score, heard = measure
  heard.text, heard.phones = "a cap of", ()
  found = score(PROMPT, speech.render(clip, 73), clip.sound, 25.0, PHONES)
  assert found["WER"] == (2, 2) and found["phones"] == (0, 4)
  assert found["EAC"] == (0, 1)
  assert found["Sync-D*"] == (synchworld.UNRELATED, 1)


@pytest.mark.parametrize("video", ["black", "still", "fading"])
def test_pictures_without_a_moving_mouth_have_no_synchrony(
  measure, clip, video
):
  score, _ = measure
  true = speech.render(clip, 73)
  height, _ = speech.mouth_of(PHONES, np.arange(73) / 25)
  pictures = {
    "black": true * 0,
    "still": np.repeat(true[:1], 73, 0),
    "fading": np.broadcast_to(
      (20 * height).astype(np.uint8)[:, None, None, None], true.shape
    ),
  }
  found = score(PROMPT, pictures[video], clip.sound, 25.0, PHONES)
  assert found["EAC"] == (0, 1) and found["has lag"] == (0, 1)


def test_sound_alone_has_words_only(measure, clip):
  score, _ = measure
  assert score(PROMPT, None, clip.sound) == {"WER": (0, 2)}
  assert score(PROMPT, speech.render(clip, 73), None) == {}


def test_names_of_one_phone_match_and_others_do_not():
  true = (Phone("ax", 0.0, 0.1), Phone("b", 0.1, 0.2), Phone("iy", 0.2, 0.3))
  heard = (Phone("ah", 0.01, 0.1), Phone("iy", 0.29, 0.4))
  assert english.count_in_time(heard, true) == 1
  assert english.count_in_time(true, true) == 3
  assert english.count_in_time((), true) == 0


def test_pocketsphinx_aligns_neither_silence_nor_unknown_words():
  silence = np.zeros(16000, np.float32)
  assert english.align(silence, "the old farmer") == []
  assert english.align(silence, "zzyzzx") == []


def test_the_grammar_s_words_are_in_the_dictionary():
  import pocketsphinx

  decoder = pocketsphinx.Decoder(samprate=16000, loglevel="FATAL")
  words = " ".join((*speech.GRAMMAR.values(), "the a my")).replace(",", " ")
  assert not [w for w in set(words.split()) if not decoder.lookup_word(w)]


def test_a_missing_package_is_one_line(monkeypatch):
  def missing(_):
    raise NotRunError("pip install pocketsphinx")

  monkeypatch.setitem(transcribers.TRANSCRIBERS, "pocketsphinx", missing)
  with pytest.raises(ValueError, match=r"scored: pip install pocketsphinx\.$"):
    english.open_measure()

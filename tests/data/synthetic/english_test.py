"""Spoken English: its sentences, phones, and the mouth that follows them."""

import dataclasses
import shutil

import numpy as np
import pytest

from ccl_jax.data.synthetic import english
from ccl_jax.data.synthetic.english import Phone
from tests.data.synthetic import flite as flite_program

TIME = np.arange(73) / 25

# What flite prints, and the wave that it writes, without flite.
SPOKEN = english.Utterance(
  "A map.",
  (Phone("ax", 0.0, 0.1), Phone("m", 0.1, 0.2), Phone("ae", 0.2, 0.4),
   Phone("p", 0.4, 0.5)),
  np.sin(np.arange(8000) / 5).astype(np.float32),
)  # fmt: skip


@pytest.fixture
def flite(monkeypatch):
  """Every sentence sounds as SPOKEN."""

  def speak(sentence, stretch=1.0):
    return dataclasses.replace(SPOKEN, sentence=sentence)

  monkeypatch.setattr(english, "speak", speak)


def test_sentences_of_tests_are_never_trained_on():
  rng = np.random.default_rng(0)
  train = {english.draw_sentence(rng, False) for _ in range(2000)}
  test = {english.draw_sentence(rng, True) for _ in range(500)}
  assert len(train) > 1000 and len(test) > 200 and not train & test
  words = [set(" ".join(x).split()) for x in (train, test)]
  assert words[1] <= words[0]  # but every word is


def test_a_clip_is_its_seed_s(flite):
  easy, again, hard = (
    english.draw_clip(7, is_hard, 2.92, is_test=True)
    for is_hard in (False, False, True)
  )
  assert easy.phones == again.phones == hard.phones
  np.testing.assert_array_equal(easy.sound, again.sound)
  np.testing.assert_array_equal(easy.sound, hard.sound)
  assert hard.scene.hard and easy.scene.ball is None
  other = english.draw_clip(8, False, 2.92, is_test=True)
  assert other.sentence != easy.sentence and other.phones != easy.phones


def test_sound_begins_with_the_first_phone(flite):
  clip = english.draw_clip(3, False, 2.92, is_test=False)
  loud = np.flatnonzero(np.abs(clip.sound) > 0.05) / english.SAMPLE_RATE
  assert abs(loud[0] - clip.phones[0].start) < 0.01
  assert abs(loud[-1] - clip.phones[-1].stop) < 0.01
  assert len(clip.sound) == 46720


def test_the_mouth_closes_at_m_b_p_and_opens_at_vowels():
  height, _ = english.mouth_of(SPOKEN.phones_at(1.0), TIME)
  middle = {x.name: (x.start + x.stop) / 2 for x in SPOKEN.phones_at(1.0)}
  found = {x: float(np.interp(t, TIME, height)) for x, t in middle.items()}
  assert found["ae"] > 6 and found["ax"] > 2.5
  assert found["m"] < 1.7 and found["p"] < 1.7
  assert (height[TIME < 0.9] == 1).all() and (height[TIME > 1.6] == 1).all()
  round_, wide = (
    english.mouth_of((Phone(x, 0.0, 3.0),), TIME)[1][30] for x in ("uw", "iy")
  )
  assert wide > round_ + 2


def test_the_face_shows_the_phones(flite):
  from ccl_jax.metrics import tracks

  clip = english.draw_clip(5, True, 2.92, is_test=False)
  video = english.render(clip, 73)
  opening = tracks.mouth_opening(video, tracks.find_face(video))
  height, width = english.mouth_of(clip.phones, TIME)
  assert np.corrcoef(opening, height * width)[0, 1] > 0.99


def test_too_short_a_clip_is_an_error(monkeypatch):
  long = dataclasses.replace(SPOKEN, wave=np.tile(SPOKEN.wave, 5))
  monkeypatch.setattr(english, "speak", lambda *_: long)
  with pytest.raises(ValueError, match=r"Sentences need 3\.2 s"):
    english.draw_clip(0, False, 1.9, is_test=False)


def test_without_flite_one_line_says_what_to_do(monkeypatch):
  monkeypatch.setattr(shutil, "which", lambda name: None)
  with pytest.raises(ValueError, match="apt-get install flite"):
    english.speak("Hello.")


def test_what_flite_prints_is_read(tmp_path, monkeypatch):
  folder = flite_program.install(tmp_path / "bin")
  monkeypatch.setenv("PATH", str(folder), prepend=":")
  spoken = english.speak("Hi.")
  assert [x.name for x in spoken.phones] == ["ax", "m", "ae", "p", "ow", "s"]
  np.testing.assert_allclose(spoken.phones[2][1:], (0.2, 0.5))
  assert len(spoken.wave) == 16000
  assert np.abs(spoken.wave).max() == pytest.approx(english.PEAK)
  (folder / "flite").write_text("#!/bin/sh\necho sorry >&2; exit 1\n")
  with pytest.raises(ValueError, match=r"flite cannot speak 'Hi\.': sorry"):
    english.speak("Hi.")

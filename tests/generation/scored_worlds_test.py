"""English clips beside what they are read beside, through small codecs."""

import json

import numpy as np
import pytest
from etils import epath

from ccl_jax.codecs.api import Codecs
from ccl_jax.codecs.hashed_text import HashedText
from ccl_jax.codecs.linear import LinearAudioCodec, LinearVideoCodec
from ccl_jax.data import media
from ccl_jax.data.clip import ClipShape
from ccl_jax.data.synthetic import english as speech
from ccl_jax.generation import scored_worlds
from ccl_jax.generation.held_out_shares import ScoredClips
from ccl_jax.generation.pipeline import Pipeline
from ccl_jax.metrics import bootstrap, english
from ccl_jax.metrics.real import transcribers
from tests.data.synthetic import flite

NUM, FRAMES = 3, 73


@pytest.fixture
def world(tmp_path, monkeypatch):
  """(folder of three clips, a pipeline with their codecs, the clips encoded).

  Who listens hears the words of clip 0, and the phones where sound begins.
  """
  program = flite.install(tmp_path / "bin")
  monkeypatch.setenv("PATH", str(program), prepend=":")
  drawn = [speech.draw_clip(i, False, FRAMES / 25, True) for i in range(NUM)]
  names = [f"{i}.mp4" for i in range(NUM)]
  videos = np.stack([speech.render(clip, FRAMES) for clip in drawn])
  sounds = np.stack([clip.sound for clip in drawn])
  for name, video, sound in zip(names, videos, sounds, strict=True):
    media.write_mp4(tmp_path / name, video, 25.0, sound, crf=10)
  rows = zip(names, drawn, strict=True)
  lines = [json.dumps({"file": n, "phones": c.phones}) for n, c in rows]
  (tmp_path / "phones.jsonl").write_text("\n".join(lines))
  codecs = Codecs(
    LinearVideoCodec.fit(list(videos), 16),
    LinearAudioCodec.fit(list(sounds), 40),
    HashedText(64, 32),
  )  # fmt: skip
  clips = {
    "name": names,
    "caption": [f'A red face. "{clip.sentence}"' for clip in drawn],
    "video": codecs.video.encode(videos), "audio": codecs.audio.encode(sounds),
  }  # fmt: skip
  shape = ClipShape(25.0, FRAMES, (64, 64))
  pipeline = Pipeline.__new__(Pipeline)  # without a model
  vars(pipeline).update(codecs=codecs, shape=shape)

  def align(audio, text):
    loud = np.abs(audio) > 0.1
    start = loud.argmax() / 16000
    return list(speech.speak("").phones_at(start)) if loud.any() else []

  heard = transcribers.Transcriber(lambda audio: drawn[0].sentence, {})
  monkeypatch.setitem(
    transcribers.TRANSCRIBERS, "pocketsphinx", lambda _: heard
  )
  monkeypatch.setattr(english, "align", align)
  return tmp_path, pipeline, clips


def test_what_english_clips_are_read_beside(world):
  folder, pipeline, clips = world
  opened = scored_worlds.open_world(pipeline, folder)
  assert isinstance(opened, scored_worlds.EnglishWorld)
  scored = ScoredClips(opened, clips)
  found = scored.references
  assert set(found) == {
    "ground truth", "mel, Griffin-Lim", "codec ceiling", "blind a2v",
    "blind v2a", "blind", "shuffled",
  }  # fmt: skip
  scores = {k: bootstrap.aggregate(x, 10) for k, x in found.items()}
  assert scores["ground truth"]["EAC"].value > 0.95
  assert scores["ground truth"]["phones"].value == 1
  assert list(scored.shares("v2a")) == ["held_out/share/v2a/EAC"]
  assert found["ground truth"][0]["WER"][0] == 0
  for floor in ("blind a2v", "blind v2a", "shuffled"):
    assert scores[floor]["EAC"].value < scores["codec ceiling"]["EAC"].value
  originals = scored_worlds.read_originals(
    clips["name"], epath.Path(folder), pipeline
  )
  (first, *_) = opened.measure(clips, originals, given=())
  assert "phones" not in first and "EAC" in first


def test_a_folder_without_phones_is_of_vowels(tmp_path):
  for folder in (tmp_path, None):
    opened = scored_worlds.open_world(Pipeline.__new__(Pipeline), folder)
    assert isinstance(opened, scored_worlds.VowelWorld)

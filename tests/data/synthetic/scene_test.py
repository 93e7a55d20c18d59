"""The law of the synthetic world."""

import dataclasses
import re

import numpy as np
import pytest

from ccl_jax.data.encode.captions import make_prompt
from ccl_jax.data.synthetic.scene import (
  BALL_CAPTIONS,
  GAP,
  IMPACT_GAP,
  MARGIN,
  MAX_IMPACTS,
  MAX_SYLLABLES,
  VOICES,
  VOWELS,
  Syllable,
  draw_scene,
  envelope,
  make_captions,
  mouth_shape,
)
from ccl_jax.data.synthetic.sound import render_sound

SEEDS = range(100)
RATE = 16_000


def test_easy_and_hard_share_the_sound_and_what_is_said():
  for seed in range(8):
    easy = draw_scene(seed)
    hard = draw_scene(seed, hard=True)
    np.testing.assert_array_equal(render_sound(easy), render_sound(hard))
    assert (easy.speech, easy.voice, easy.ball) == (
      hard.speech, hard.voice, hard.ball,
    )  # fmt: skip
    assert easy.appearance.sway == (0, 0) and not easy.appearance.tv
    assert min(hard.appearance.sway) >= 2 and hard.appearance.tv


def test_seeds_decide_everything():
  assert draw_scene(3) == draw_scene(3)
  assert draw_scene(3) != draw_scene(4)


def test_openings_lie_apart_and_inside_the_clip():
  for seed in SEEDS:
    scene = draw_scene(seed, seconds=1.96)
    assert 1 <= len(scene.syllables) <= MAX_SYLLABLES
    times = [t for s in scene.syllables for t in (s.start, s.stop)]
    gaps = np.diff([0, *times, 1.96])[::2]
    assert min(gaps[0], gaps[-1]) >= MARGIN - 1e-9
    assert min(gaps[1:-1], default=GAP) >= GAP - 1e-9
    impacts = np.r_[0, scene.impacts, 1.96]
    assert len(impacts) <= MAX_IMPACTS + 2
    assert min(np.diff(impacts)[1:-1], default=1) >= IMPACT_GAP - 1e-9


def test_times_cannot_be_told_from_the_text():
  scenes = [draw_scene(seed) for seed in range(1000)]
  like = [s for s in scenes if len(s.speech.split()) == 2]
  assert {len(s.syllables) for s in like} == {2, 3, 4}
  starts = np.array([s.syllables[0].start for s in like])
  assert np.ptp(starts) > 1 and starts.std() > 0.25
  rests = [np.diff([s.start for s in x.syllables]) for x in like]
  assert np.concatenate(rests).std() > 0.15
  halves = [
    scene.syllables[-1].stop < 0.98 or scene.syllables[0].start > 0.98
    for scene in scenes
  ]
  assert 0.15 < np.mean(halves) < 0.4
  balls = [s.ball for s in scenes if s.ball]
  assert {b.surface for b in balls} == {"floor", "wall"}
  assert {len(b.impacts) for b in balls} == {1, 2, 3}
  counts, _ = np.histogram([t for b in balls for t in b.impacts], 8, (0.1, 1.8))
  assert counts.min() > 0.6 * counts.max()  # no time is likelier than others


def test_a_word_may_be_several_openings():
  scene = next(s for s in map(draw_scene, SEEDS) if len(s.vowels) == 4)
  again = dataclasses.replace(
    scene,
    syllables=tuple(
      s._replace(vowel=v) for v, s in zip("aaia", scene.syllables, strict=True)
    ),
  )
  assert again.vowels == list("aaia") and again.speech == "a i a"


def test_every_identity_vowel_and_a_ball_in_six_of_ten():
  scenes = [draw_scene(seed) for seed in SEEDS]
  assert {s.voice for s in scenes} == set(VOICES)
  assert {v for s in scenes for v in s.speech.split()} == set(VOWELS)
  assert 0.45 < np.mean([s.ball is not None for s in scenes]) < 0.75


def test_a_clip_too_short_for_speech_is_refused():
  with pytest.raises(ValueError, match=r"seconds=1\.0; use more frames"):
    draw_scene(0, seconds=1.0)


def test_prompts_are_short_and_of_few_words():
  words = set()
  for seed in SEEDS:
    scene = draw_scene(seed, hard=bool(seed % 2))
    text = make_prompt(**make_captions(scene))
    tokens = re.findall(r"\w+|[^\w\s]", text)
    assert len(tokens) < 30
    words |= set(tokens)
  assert len(words) < 30


def test_captions_say_what_is_there():
  scene = next(s for s in (draw_scene(i, True) for i in SEEDS) if s.ball)
  caption = make_captions(scene)
  colour, name = scene.voice.colour, scene.voice.name
  assert caption["video"] == (
    f"A moving {colour} face talks. A TV flickers."
    f" {BALL_CAPTIONS[scene.ball.surface]}"
  )
  assert caption["speech"] == scene.speech
  assert caption["audio"] == f"A {name} voice. Clicks."


def test_the_mouth_follows_the_envelope():
  syllable = Syllable("a", 0.2, 0.5)
  time = np.array([0.1, 0.2, 0.35, 0.5, 0.6])
  np.testing.assert_allclose(envelope(syllable, time), [0, 0, 1, 0, 0])
  height, width = mouth_shape((syllable,), time)
  np.testing.assert_allclose(height, [1, 1, 8, 1, 1])
  np.testing.assert_allclose(width, [4, 4, 5, 4, 4])

"""Calibration: the scores of the truth, of its ruins, and of known delays."""

import numpy as np
import pytest

from ccl_jax.codecs.linear import LinearAudioCodec, LinearVideoCodec
from ccl_jax.codecs.mel import log_mel
from ccl_jax.metrics import bootstrap, synchworld
from tests.metrics.worlds import FPS, make_world

NUM = 16


@pytest.fixture(scope="module", params=[False, True], ids=["easy", "hard"])
def world(request):
  return make_world(NUM, request.param)


@pytest.fixture(scope="module")
def easy():
  return make_world(NUM, hard=False)


@pytest.fixture(scope="module")
def codecs():
  seen = make_world(40, hard=True, first_seed=1000)
  return LinearVideoCodec.fit(seen.videos), LinearAudioCodec.fit(seen.sounds)


def row(world, videos=None, mels=None):
  """The values of the scores, with other videos or mels put in."""
  clips = [
    synchworld.measure(*clip, FPS)
    for clip in zip(
      world.prompts,
      videos or world.videos,
      mels or world.mels,
      strict=True,
    )
  ]
  return {k: v.value for k, v in bootstrap.aggregate(clips, 20).items()}


def test_ground_truth_is_nearly_perfect(world):
  truth = row(world)
  assert truth["EAC"] > 0.9
  assert truth["lag ms"] < 3
  assert truth["has lag"] == 1
  assert truth["Sync-C*"] > 0.6 and truth["Sync-D*"] < 0.3
  assert truth["onset F1"] > 0.98 and truth["onset ms"] < 5
  assert truth["SER"] < 0.02 and truth["ID"] == 1
  assert ("TV leak" in truth) == world.scenes[0].hard
  assert abs(truth.get("TV leak", 0)) < 0.2


def test_the_codecs_ceiling_is_high(world, codecs):
  video, audio = codecs
  videos = video.decode(video.encode(np.stack(world.videos)))
  mels = audio.mel(audio.encode(np.stack(world.sounds)))
  ceiling = row(world, list(videos), list(mels))
  assert ceiling["EAC"] > 0.8 and ceiling["lag ms"] < 30
  assert ceiling["onset F1"] > 0.9
  assert ceiling["SER"] < 0.05 and ceiling["ID"] > 0.9


def test_the_sound_of_another_clip_is_far_off(world):
  floor = row(world, mels=world.mels[1:] + world.mels[:1])
  assert floor["EAC"] < 0.3 and floor["has lag"] < 0.6
  assert floor["Sync-C*"] < 0.5 and floor["Sync-D*"] > 0.6
  assert floor["onset F1"] < 0.5 and floor["SER"] > 0.5 and floor["ID"] < 0.7


def test_a_still_picture_has_no_synchrony(world):
  still = row(world, [v[:1].repeat(len(v), 0) for v in world.videos])
  assert still["EAC"] == 0 and still["has lag"] == 0
  assert "lag ms" not in still
  # A mean of equal numbers is one of them but for rounding.
  assert still["Sync-D*"] == pytest.approx(synchworld.UNRELATED, rel=1e-12)
  assert still["Sync-C*"] == 0 and still["onset F1"] == 0
  assert still["ID"] == 1 and "onset ms" not in still


@pytest.mark.parametrize("delay", [-250, -125, -40, 40, 125, 250])
def test_an_imposed_delay_is_measured(easy, delay):
  shifted = [np.roll(s, delay * 16) for s in easy.sounds]
  late = row(easy, mels=[log_mel(s[None])[0] for s in shifted])
  np.testing.assert_allclose(late["lag ms"], abs(delay), atol=12)
  assert late["EAC"] < (0.8 if abs(delay) < 100 else 0)
  assert late["Sync-C*"] > 0.5
  if abs(delay) < 60:
    np.testing.assert_allclose(late["onset ms"], abs(delay), atol=8)
  else:
    assert late["onset F1"] < 0.15


def test_what_a_prompt_asks_for():
  asked = synchworld.parse_prompt(
    'A red face talks. A TV flickers. "a i o" Clicks.'
  )
  assert asked == (["a", "i", "o"], False, True, "round")
  assert synchworld.parse_prompt("A ball bounces.") == (
    [], True, False, "round",
  )  # fmt: skip


def test_one_stream_alone_has_the_scores_it_can_have():
  world = make_world(1, hard=False)
  alone = synchworld.measure(world.prompts[0], None, world.mels[0], FPS)
  assert set(alone) == {"SER"}
  assert synchworld.measure(world.prompts[0], world.videos[0], None) == {}
  with pytest.raises(ValueError, match="needs video or audio"):
    synchworld.measure("", None, None)


def test_sound_that_ends_early_is_refused_and_a_late_end_cut_off():
  world = make_world(1, hard=False)
  video, mel = world.videos[0], world.mels[0]
  with pytest.raises(ValueError, match="ends before"):
    synchworld.measure("", video, mel[:60], FPS)
  longer = np.concatenate([mel, mel[60:80]])
  assert synchworld.measure(
    world.prompts[0], video, longer, FPS
  ) == synchworld.measure(world.prompts[0], video, mel, FPS)


def test_onsets_match_one_to_one():
  bias = synchworld.CLICK_BIAS
  clip = synchworld.onset_scores(
    np.array([0.5, 1.0, 1.5]), np.array([0.52, 0.54, 1.07, 1.7]) + bias
  )
  assert clip["onset F1"] == (4, 7)
  np.testing.assert_allclose(clip["onset ms"][0] / clip["onset ms"][1], 45)
  nothing = synchworld.onset_scores(np.zeros(0), np.zeros(0))
  assert nothing == {"onset F1": (0, 1), "onset ms": (0, 0)}


@pytest.mark.parametrize(
  ("got", "wanted", "edits"),
  [("aiu", "aiu", 0), ("", "aiu", 3), ("ai", "", 2), ("iu", "aiu", 1),
   ("aou", "aiu", 1), ("uia", "aiu", 2)],
)  # fmt: skip
def test_edit_distance(got, wanted, edits):
  assert synchworld.edit_distance(got, wanted) == edits


def test_clips_are_shuffled_among_those_with_as_many_words():
  prompts = ['"a i"', '"u"', '"o a"', '"a i u"', '"i o"', '"o" A ball.']
  assert synchworld.shuffle(prompts) == [2, 2, 4, 4, 0, 0]


@pytest.mark.parametrize("frames", [1, 2, 5, 9])
def test_short_clips_are_measured(frames):
  world = make_world(1, hard=True)
  scores = synchworld.measure(
    world.prompts[0], world.videos[0][:frames], world.mels[0], FPS
  )
  assert all(np.isfinite(total) for total, _ in scores.values())
  silent = (
    synchworld.measure(
      world.prompts[0], world.videos[0][:frames], np.zeros((0, 80)), FPS
    )
    if frames < 3
    else scores
  )
  assert silent.keys() == scores.keys()


def test_what_is_not_a_number_is_silence():
  world = make_world(1, hard=False)
  mel = world.mels[0].copy()
  mel[:3] = np.nan
  scores = synchworld.measure(world.prompts[0], world.videos[0], mel, FPS)
  assert scores["EAC"][0] > 0.8
  scores = synchworld.measure(
    world.prompts[0], world.videos[0], mel * np.nan, FPS
  )
  assert scores["EAC"] == (0, 1) and scores["SER"][0] == scores["SER"][1]


def test_a_world_of_another_style_has_faces_and_voices_of_its_own(codecs):
  """Also through the codecs of the first; no clip is one of the other world."""
  worlds = {s: make_world(6, True, style=s) for s in ("round", "square")}
  video_codec, audio_codec = codecs
  for style, world in worlds.items():
    videos = np.stack(world.videos)
    decoded = video_codec.decode(video_codec.encode(videos))
    sounds = audio_codec.mel(audio_codec.encode(np.stack(world.sounds)))
    for pair in ((videos, world.mels), (decoded, sounds)):
      for other, prompts in ((s, w.prompts) for s, w in worlds.items()):
        clips = zip(prompts, *pair, strict=True)
        scores = [synchworld.measure(*clip) for clip in clips]
        found = bootstrap.aggregate(scores)
        assert found["EAC"].value > 0.8
        assert found["ID"].value == float(style == other)
  assert "blue square face" in " ".join(worlds["square"].prompts)

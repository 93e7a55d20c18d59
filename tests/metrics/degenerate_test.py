"""Generators that neither listen nor look do not pass the blind floor.

Each ruins the clips of a small world: pictures beside the true sound, sound
beside the true pictures, or both. Many follow the other stream, but by what is
no mouth and no voice.
"""

import functools

import numpy as np
import pytest

from ccl_jax.codecs.mel import log_mel
from ccl_jax.data.synthetic.render import render_video
from ccl_jax.data.synthetic.sound import render_sound, render_vowel
from ccl_jax.metrics import blind, bootstrap, synchworld, tracks
from tests.metrics.worlds import FPS, make_world

NUM, RATE = 16, 16_000
# 1: larger is better. Sync-C* is none: it does not see a delay.
HEADLINES = {"EAC": 1, "onset F1": 1, "Sync-D*": -1}


@pytest.fixture(scope="module")
def world():
  return make_world(NUM, hard=False, first_seed=500)


@pytest.fixture(scope="module")
def floors(world):
  """The best blind generators, and the truth."""
  seen, heard = [], []
  for strategy in blind.STRATEGIES:
    scenes = [
      blind.make_scene(prompt, strategy, 49 / FPS, seed)
      for seed, prompt in enumerate(world.prompts)
    ]
    seen.append(measure(world, videos=[render_video(s) for s in scenes]))
    heard.append(measure(world, sounds=[render_sound(s) for s in scenes]))
  mouth = blind.mean_mouth(49, FPS)
  mean = [render_video(s, mouth=mouth) for s in scenes]
  seen.append(measure(world, videos=mean))
  rows = {"videos": seen, "sounds": heard, "both": seen + heard}
  best = {name: bootstrap.best(row) for name, row in rows.items()}
  return best | {"truth": measure(world)}


@functools.cache
def mel_of(sound):
  samples = np.frombuffer(sound, np.float32)
  if not np.isfinite(samples).all():
    return np.full((122, 80), np.nan, np.float32)
  return log_mel(np.pad(samples, (0, -len(samples) % 512))[None])[0]


def measure(world, videos=None, sounds=None):
  mels = [
    mel_of(s.astype(np.float32).tobytes()) for s in sounds or world.sounds
  ]
  rows = zip(world.prompts, videos or world.videos, mels, strict=True)
  return [synchworld.measure(*row, FPS) for row in rows]


def loudness(sound):
  """How loud the speech is in each frame, from 0 to 1."""
  energy = tracks.speech_energy(mel_of(sound.tobytes()), 49, FPS)
  return (energy / energy.max())[:, None, None, None]


def still(video):
  return np.repeat(video[:1], len(video), 0)


def painted(video, where, rgb):
  """The still picture; `where`, (t, y, x) or broadcast, has a colour."""
  where = np.broadcast_to(where, video.shape[:3])
  return np.where(where[..., None], np.uint8(rgb), still(video))


def ball_at(places):
  def make(video, sound):
    y, x = np.mgrid[:64, :64] + 0.5
    where = np.hypot(x - 52, y - places[:, None, None]) < 4.5
    return painted(video, where, (247, 230, 38))

  return make


def pixel(video, sound, width=1):
  where = np.zeros((49, 64, 64), bool)
  where[:, 40 : 40 + width, 28 : 28 + width] = loudness(sound)[..., 0] > 0.3
  return painted(video, where, (0, 0, 0))


def vanishing(video, sound):
  shown = loudness(sound) > 0.3
  return np.where(shown, still(video), np.uint8(160))


def curtain(video, sound):
  """A black cover that comes down from the face's middle."""
  rows = np.arange(64)[:, None] > 34
  return painted(video, rows & (loudness(sound)[..., 0] > 0.3), (0, 0, 0))


TIME = np.arange(49) / FPS


def one_opening(video, sound):
  """The clip's own frames, from the mouth's rest to its widest and back."""
  order = tracks.mouth_opening(video, tracks.find_face(video)).argsort()
  return video[
    order[np.round(48 * np.sin(np.pi * TIME / TIME[-1])).astype(int)]
  ]


VIDEOS = {
  "black": lambda v, s: np.zeros_like(v),
  "white": lambda v, s: np.full_like(v, 255),
  "noise": lambda v, s: np.random.default_rng(0).integers(
    0, 256, v.shape, np.uint8
  ),
  "still": lambda v, s: still(v),
  "ground that fades with the sound": lambda v, s: np.uint8(
    60 + 160 * loudness(s) + np.zeros(v.shape)
  ),
  "picture in the face's colour that fades": lambda v, s: np.uint8(
    still(v)[:, 34:35, 20:21] * (1 - 0.5 * loudness(s)) + np.zeros(v.shape)
  ),
  "still face that fades": lambda v, s: np.uint8(
    still(v) * (1 - 0.8 * loudness(s))
  ),
  "still face that fades a little": lambda v, s: np.uint8(
    still(v) * (1 - 0.3 * loudness(s))
  ),
  "face that is there with the sound": vanishing,
  "blinking pixel": pixel,
  "blinking spot": lambda v, s: pixel(v, s, 3),
  "cover over the mouth": curtain,
  "dark ground": lambda v, s: np.where(
    (loudness(s) > 0.3) & (np.arange(64) > 48)[:, None], np.uint8(0), still(v)
  ),
  "mouth that flickers": lambda v, s: np.where(
    (np.arange(49) % 2)[:, None, None, None] > 0,
    still(v), v[tracks.mouth_opening(v, tracks.find_face(v)).argmax()],
  ),
  "mouth that opens once": one_opening,
  "reversed": lambda v, s: v[::-1],
  "still ball": ball_at(np.full(49, 50.0)),
  "yellow": lambda v, s: v // 255 + np.uint8([[[[247, 230, 38]]]]),
  "ball that jumps": ball_at(np.where(np.arange(49) % 2, 59.0, 45.0)),
  "ball on a fixed beat": ball_at(
    59 - 14 * np.abs(np.sin(np.pi * TIME / 0.28))
  ),
}  # fmt: skip
SOUNDS = {
  "silence": lambda s: s * 0,
  "noise": lambda s: np.random.default_rng(0).normal(0, 0.1, len(s)),
  "one vowel": lambda s: render_vowel("a", 160.0, np.arange(len(s)) / RATE),
  "near silence": lambda s: s / 1000,
  "clipped": lambda s: np.clip(30 * s, -1, 1),
  "not a number": lambda s: s * np.nan,
  "late": lambda s: np.roll(s, 4800),
  "reversed": lambda s: s[::-1],
  "clicks all the time": lambda s: np.where(
    np.arange(len(s)) % 1600 < 200,
    np.random.default_rng(0).normal(0, 0.2, len(s)), 0,
  ),
}  # fmt: skip
BOTH = {
  "black and silent": (VIDEOS["black"], SOUNDS["silence"]),
  "still and silent": (VIDEOS["still"], SOUNDS["silence"]),
  "one long vowel": (
    lambda v, s: np.where(
      (np.abs(TIME - 1) < 0.6)[:, None, None, None],
      v[tracks.mouth_opening(v, tracks.find_face(v)).argmax()], still(v),
    ),
    lambda s: SOUNDS["one vowel"](s)
    * (np.abs(np.arange(len(s)) / RATE - 1) < 0.6),
  ),
}  # fmt: skip
CASES = [
  *(("videos", name, make, None) for name, make in VIDEOS.items()),
  *(("sounds", name, None, make) for name, make in SOUNDS.items()),
  *(("both", name, *make) for name, make in BOTH.items()),
]


@pytest.mark.parametrize(
  ("stream", "name", "see", "hear"),
  CASES,
  ids=[f"{c[0]}-{c[1]}" for c in CASES],
)
def test_no_degenerate_generator_passes_the_blind_floor(
  world, floors, stream, name, see, hear
):
  pairs = list(zip(world.videos, world.sounds, strict=True))
  made = measure(
    world,
    see and [see(*pair) for pair in pairs],
    hear and [hear(sound).astype(np.float32) for _, sound in pairs],
  )
  scores = bootstrap.aggregate(made, 100)
  floor = bootstrap.aggregate(floors[stream], 300)
  for score, sign in HEADLINES.items():
    limit = floor[score].high if sign > 0 else -floor[score].low
    assert sign * scores[score].value <= limit, (score, scores[score], floor)
    assert np.isfinite(scores[score]).all()


def test_the_truth_goes_all_the_way_and_the_blind_floor_none(world, floors):
  for stream in ("videos", "sounds", "both"):
    floor = floors[stream]
    way = bootstrap.share(floors["truth"], floor, floors["truth"], 100)
    assert set(HEADLINES) <= set(way) and not {"SER", "ID"} & set(way)
    assert all(value.value == 1 for value in way.values())
    start = bootstrap.share(floor, floor, floors["truth"], 100)
    assert all(value.value == 0 for value in start.values())
    scores = bootstrap.aggregate(floor, 10)
    assert scores["EAC"].value < 0.4 and scores["onset F1"].value < 0.5


def test_shuffled_clips_do_not_pass_the_blind_floor(world, floors):
  others = synchworld.shuffle(world.prompts)
  assert all(i != other for i, other in enumerate(others))
  shuffled = measure(world, sounds=[world.sounds[i] for i in others])
  share = bootstrap.share(shuffled, floors["both"], floors["truth"], 300)
  for score in ("EAC", "onset F1"):
    assert share[score].low <= 0

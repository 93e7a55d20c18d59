"""SynchWorld: synthetic audio-visual scenes with exactly known ground truth.

A clip shows a *talker*, a face whose colour determines the pitch of its voice.
It says up to four words, each a vowel that is spoken once or several times in a
row. A vowel has two formants, a loudness and a mouth shape, and one envelope
e(t) drives both its sound and its mouth, so the lag is 0 by construction:

    sound(t)      = e(t) loudness_v sum_h gain_v(h f0) sin(2 pi h f0 t)     (1)
    half height   = 1 + 7 opening_v e(t)                                    (2)

In 6 of 10 clips a *ball* strikes the floor or the wall and clicks, 1 to 3
times; in between it bounces low, or hangs in the air until it drops.       (3)

Times cannot be guessed. The captions contain what is said and what is struck,
but not how often the mouth opens for a word or how often the ball strikes. The
rests before, between and after are random: openings cluster, start late, or
fill only a part of the clip.

Everything else is a distractor. Video: a drifting square that may have the
face's colour and, in *hard* clips, a moving head and a silent "TV" mouth.
Sound: hum, a noise floor, chirps from off screen. Their bands are disjoint:
speech energy 180-1300 Hz, chirps 1500-2000 Hz, clicks above 4200 Hz.

`draw_scene` draws sound and video from separate random streams: the easy and
the hard clip of one seed have the same sound. A world of another `Style` serves
for fine-tuning. Lengths are 64ths of the frame, times are seconds, and frame i
shows time i / fps.
"""

import dataclasses
import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

ATTACK, RELEASE, GAP = 0.1, 0.12, 0.08
SYLLABLE = (0.2, 0.28)  # shortest and longest opening of the mouth
MARGIN = 0.08  # without an event, at both ends
# Between impacts at least; a ball's way to or from a surface takes at most.
IMPACT_GAP, FLIGHT = 0.44, 0.3
MAX_SYLLABLES, MAX_IMPACTS = 4, 3
# The mouth, 6 below, then fills one column of 8-pixel patches, which the linear
# codecs preserve.
HEAD = (28.0, 34.0)
REST_WIDTH = 4.0


class Voice(NamedTuple):
  """Identity of a talker: the colour of the face and the pitch of the voice."""

  colour: str
  rgb: tuple[float, float, float]
  name: str
  pitch: float


class Vowel(NamedTuple):
  """Formants in Hz, loudness, peak mouth opening (0-1) and half width."""

  formants: tuple[float, float]
  loudness: float
  opening: float
  width: float


class Syllable(NamedTuple):
  """One opening of the mouth, with a vowel, from `start` to `stop`."""

  vowel: str
  start: float
  stop: float


class Chirp(NamedTuple):
  """Sweep of 0.12 s from `low` to `high` Hz."""

  start: float
  low: float
  high: float


class Ball(NamedTuple):
  """Ball that strikes the "floor" or the "wall" at `impacts`.

  It is `heights[i]` away from it before impact i, the last height after all.
  """

  surface: str
  impacts: tuple[float, ...]
  heights: tuple[float, ...]


class Appearance(NamedTuple):
  """Facts of the video only: places, motion and the silent TV mouth."""

  head: tuple[float, float]
  sway: tuple[float, float]
  sway_rate: tuple[float, float]
  sway_phase: tuple[float, float]
  square: tuple[float, float]
  drift: tuple[float, float]
  square_rgb: tuple[float, float, float]
  ground: float
  tv: tuple[Syllable, ...]


VOICES = (
  Voice("red", (0.92, 0.20, 0.18), "low", 105.0),
  Voice("green", (0.15, 0.80, 0.25), "middle", 160.0),
  Voice("blue", (0.20, 0.30, 0.95), "high", 240.0),
)
# The same colours with each other's voices.
_SWAPPED = tuple(
  voice._replace(name=other.name, pitch=other.pitch)
  for voice, other in zip(VOICES, (VOICES[2], *VOICES[:2]), strict=True)
)
# A world's faces -> its talkers.
STYLES = {"round": VOICES, "square": _SWAPPED}
VOWELS = {
  "a": Vowel((750, 1150), 1.0, 1.0, 5.0),
  "i": Vowel((280, 2300), 0.7, 0.5, 6.5),
  "u": Vowel((320, 700), 0.4, 0.6, 3.4),
  "o": Vowel((500, 900), 0.75, 0.85, 4.2),
}

BALL_CAPTIONS = {"floor": "A ball bounces.", "wall": "A ball hits the wall."}


@dataclasses.dataclass(frozen=True)
class Scene:
  """One clip before it is rendered."""

  seed: int
  hard: bool
  seconds: float
  voice: Voice
  syllables: tuple[Syllable, ...]
  ball: Ball | None
  chirps: tuple[Chirp, ...]
  hum: float
  appearance: Appearance
  face: str = "round"

  @property
  def vowels(self) -> list[str]:
    """Returns the vowel of each opening."""
    return [s.vowel for s in self.syllables]

  @property
  def speech(self) -> str:
    """Returns the words in order, such as "a u i"."""
    return " ".join(v for v, _ in itertools.groupby(self.vowels))

  @property
  def impacts(self) -> Float[np.ndarray, " i"]:
    """Times of the impacts and their clicks; empty without a ball."""
    return np.array(self.ball.impacts if self.ball else ())


def draw_scene(
  seed: int, hard: bool = False, seconds: float = 1.96, style: str = "round"
) -> Scene:
  """Draws the scene of a seed; easy and hard ones have the same sound.

  Args:
    style: one of STYLES; all else does not depend on it.

  Raises:
    ValueError: `seconds` is too short for the longest speech.
  """
  if seconds < 1.9:
    raise ValueError(
      f"The speech needs 1.9 s or more, got {seconds=}; use more frames."
    )
  sound = np.random.default_rng((seed, 0))
  voice = STYLES[style][sound.integers(3)]
  ball = _draw_ball(sound, seconds) if sound.random() < 0.6 else None
  return Scene(
    seed=seed,
    hard=hard,
    seconds=seconds,
    voice=voice,
    syllables=_draw_syllables(sound, seconds),
    ball=ball,
    chirps=tuple(
      Chirp(sound.uniform(0, seconds - 0.12), *sound.uniform(1500, 2000, 2))
      for _ in range(sound.integers(3))
    ),
    hum=sound.uniform(0.01, 0.03),
    appearance=_draw_appearance(
      np.random.default_rng((seed, 1)), hard, seconds
    ),
    face=style,
  )


def _draw_syllables(rng, seconds: float) -> tuple[Syllable, ...]:
  """Draws 1 to MAX_SYLLABLES openings; a vowel is often the one before."""
  lengths = rng.uniform(*SYLLABLE, rng.integers(1, MAX_SYLLABLES + 1))
  vowels = [str(rng.choice(list(VOWELS)))]
  for _ in lengths[1:]:
    others = [v for v in VOWELS if v != vowels[-1]]
    vowels.append(vowels[-1] if rng.random() < 0.4 else str(rng.choice(others)))
  starts = _scatter(rng, lengths, GAP, seconds)
  stops = starts + lengths
  return tuple(map(Syllable, vowels, starts.tolist(), stops.tolist()))


def _draw_ball(rng, seconds: float) -> Ball:
  """Draws the impacts and, by the time between them, how far the ball goes."""
  surface = str(rng.choice(["floor", "floor", "wall"]))
  num = rng.integers(1, MAX_IMPACTS + 1)
  impacts = _scatter(rng, np.full(num, 0.06), IMPACT_GAP - 0.06, seconds)
  return make_ball(surface, impacts, rng.uniform(0.7, 1, num + 1))


def make_ball(surface: str, impacts, reach=1.0) -> Ball:
  """Returns a ball that moves `reach`, also by impact, of what they allow."""
  apart = np.diff(np.r_[-np.inf, impacts, np.inf])
  heights = reach * 60 * np.minimum(apart / 2, FLIGHT)
  return Ball(surface, tuple(map(float, impacts)), tuple(heights.tolist()))


def _scatter(rng, lengths, gap: float, seconds: float) -> np.ndarray:
  """Returns starts of events of these lengths, with random rests around them.

  Rests in between are mostly short and sometimes long, so that events cluster.
  """
  num = len(lengths)
  free = seconds - 2 * MARGIN - lengths.sum() - gap * (num - 1)
  rests = free * rng.dirichlet([1, *[0.5] * (num - 1), 1])[:-1]
  before = np.r_[0, lengths[:-1] + gap]
  return MARGIN + np.cumsum(rests + before)


def _draw_appearance(rng, hard: bool, seconds: float) -> Appearance:
  def pair(low, high):
    return tuple(rng.uniform(low, high, 2))

  return Appearance(
    head=tuple(HEAD + rng.uniform(-1, 1, 2)),
    square=(rng.uniform(6, 34), rng.uniform(6, 11)),
    drift=(rng.uniform(-6, 6), rng.uniform(-2, 2)),
    square_rgb=VOICES[rng.integers(3)].rgb,
    ground=rng.uniform(0.55, 0.75),
    sway=pair(2, 4) if hard else (0.0, 0.0),
    sway_rate=pair(0.3, 0.7),
    sway_phase=pair(0, 2 * np.pi),
    tv=_draw_syllables(rng, seconds) if hard else (),
  )


def envelope(
  syllable: Syllable, time: Float[np.ndarray, " t"]
) -> Float[np.ndarray, " t"]:
  """Returns e(t) of one syllable: smooth attack and release, 1 in between."""
  rise = np.clip((time - syllable.start) / ATTACK, 0, 1)
  fall = np.clip((syllable.stop - time) / RELEASE, 0, 1)
  return np.sin(np.pi / 2 * rise) ** 2 * np.sin(np.pi / 2 * fall) ** 2


def mouth_shape(
  syllables: tuple[Syllable, ...], time: Float[np.ndarray, " t"]
) -> tuple[Float[np.ndarray, " t"], Float[np.ndarray, " t"]]:
  """Returns half height (2) and half width of the mouth at each time."""
  height, width = np.ones_like(time), np.full_like(time, REST_WIDTH)
  for syllable in syllables:
    e, vowel = envelope(syllable, time), VOWELS[syllable.vowel]
    height += 7 * vowel.opening * e
    width += (vowel.width - REST_WIDTH) * e
  return height, width


def make_captions(scene: Scene) -> dict[str, str]:
  """Returns the captions "video", "speech" and "audio", in few fixed words."""
  adjective = "moving " if scene.hard else ""
  shape = "square " if scene.face == "square" else ""
  video = f"A {adjective}{scene.voice.colour} {shape}face talks."
  audio = f"A {scene.voice.name} voice."
  if scene.hard:
    video += " A TV flickers."
  if scene.ball:
    video += f" {BALL_CAPTIONS[scene.ball.surface]}"
    audio += " Clicks."
  return {"video": video, "speech": scene.speech, "audio": audio}

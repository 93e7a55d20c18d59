"""Generators that read a SynchWorld prompt and ignore the other stream.

A strategy guesses when the words of the prompt are spoken and the ball strikes,
without seeing or hearing the other stream. One more shows the mean of all
mouths in each clip: a model learns it that does not listen, and it follows a
voice better than any guess of the words. The best of all is the floor that a
model must pass before it can be said to listen or to look.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from ccl_jax.data.synthetic.scene import (
  BALL_CAPTIONS,
  STYLES,
  VOWELS,
  Scene,
  Syllable,
  draw_scene,
  envelope,
  make_ball,
  mouth_shape,
)
from ccl_jax.metrics.synchworld import parse_prompt

LENGTH = 0.2  # seconds of an opening
# Frame rate, and number of scenes, of the mean tracks of the world.
_RATE, _DRAWN = 50, 1000


def _even(seconds: float, num: float | int) -> np.ndarray:
  """Returns the middles of `num` equal parts."""
  num = max(1, round(num))
  return (np.arange(num) + 0.5) * seconds / num


def _peaks(track: np.ndarray, num: int, apart: float) -> np.ndarray:
  """Returns the times of the `num` largest values that lie apart."""
  time, found = np.arange(len(track)) / _RATE, []
  for _ in range(num):
    near = [np.abs(time - t) < apart for t in found]
    found.append(time[np.where(np.any(near, 0), -1, track).argmax()])
  return np.sort(found)


def _draw(seed: int, seconds: float, hard: bool = False) -> Scene:
  """Draws a scene; of a clip too short for speech, the start of one."""
  return draw_scene(seed, hard, max(seconds, 1.96))


@functools.cache
def _draw_many(seconds: float) -> list[Scene]:
  """Draws the scenes whose mean tracks are the world's."""
  return [_draw(seed, seconds) for seed in range(_DRAWN)]


@functools.cache
def _histogram(seconds: float, words: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns histograms over time of speech (of `words` words) and impacts."""
  drawn = _draw_many(seconds)
  time = np.arange(round(seconds * _RATE)) / _RATE
  like = [s for s in drawn if len(s.speech.split()) == words]
  openings = [syllable for s in like for syllable in s.syllables]
  impacts = np.concatenate([s.impacts for s in drawn])
  struck = (np.abs(time[:, None] - impacts) < 0.08).sum(1)
  speaks = sum(envelope(s, time) for s in openings)
  num = round(len(openings) / max(len(like), 1))
  return _peaks(speaks, max(num, 1), LENGTH + 0.05), _peaks(struck, 2, 0.3)


@functools.cache
def mean_mouth(
  frames: int, fps: float
) -> tuple[Float[np.ndarray, " t"], Float[np.ndarray, " t"]]:
  """Returns half height and half width of the mean mouth, wide open at most."""
  time, widest = np.arange(frames) / fps, VOWELS["a"]
  drawn = [mouth_shape(s.syllables, time) for s in _draw_many(frames / fps)]
  height, _ = np.mean(drawn, 0)
  opening = (height - height.min()) / max(np.ptp(height), 1e-6)
  return 1 + 7 * widest.opening * opening, np.full(frames, widest.width)


# Name -> (seconds, number of words) -> middles of the openings, impacts.
STRATEGIES: dict[str, Callable[[float, int], tuple[np.ndarray, np.ndarray]]] = {
  "even": lambda s, n: (_even(s, n), _even(s, 1)),
  "twice each": lambda s, n: (_even(s, 2 * n), _even(s, 2)),
  "every 0.3 s": lambda s, n: (_even(s, s / 0.3), _even(s, s / 0.3)),
  "every 0.5 s": lambda s, n: (_even(s, s / 0.5), _even(s, s / 0.5)),
  "early": lambda s, n: (0.25 + 0.3 * np.arange(n), _even(s / 2, 1)),
  "late": lambda s, n: (s - 0.25 - 0.3 * np.arange(n)[::-1], _even(s, 3)),
  "histogram": _histogram,
}


def make_scene(
  prompt: str, strategy: str, seconds: float, seed: int = 0
) -> Scene:
  """Returns the scene that a strategy makes of a prompt.

  Args:
    seed: of what the prompt does not tell and scores do not measure.
  """
  wanted = parse_prompt(prompt)
  words, voices = wanted.words or ["a"], STYLES[wanted.style]
  surfaces = [x for x, caption in BALL_CAPTIONS.items() if caption in prompt]
  middles, impacts = STRATEGIES[strategy](seconds, len(words))
  return dataclasses.replace(
    _draw(seed, seconds, wanted.has_tv),
    seconds=seconds,
    voice=next((v for v in voices if v.colour in prompt), voices[0]),
    face=wanted.style,
    syllables=tuple(
      Syllable(
        words[i * len(words) // len(middles)], t - LENGTH / 2, t + LENGTH / 2
      )
      for i, t in enumerate(middles.tolist())
    ),
    ball=make_ball(surfaces[0], impacts) if surfaces else None,
  )

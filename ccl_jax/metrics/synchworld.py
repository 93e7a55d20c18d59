"""Scores of SynchWorld clips: synchrony of sound and video, and correctness.

With z the standardised tracks, a the mouth's opening and e the speech energy,
over n frames and lags |l| <= 0.375 s,

    rho(l) = 1/n sum_i z(a)_{i+l} z(e)_i    d(l) = mean_i |z(a)_{i+l} - z(e)_i|

where 1/n instead of a mean favours small lags if syllables repeat. The scores
are

    EAC       rho(0), envelope-aperture correlation             1 is best
    lag ms    |argmax rho|, refined by a parabola               0 (rho > 0.5)
    has lag   share of clips with rho > 0.5 at some lag         1
    Sync-C*   median d - min d, at whatever lag                 large
    Sync-D*   d(0)                                              0
    onset F1  impacts and clicks matched within 80 ms           1 (ball clips)
    onset ms  mean |impact - click| of matches, less the bias   0 (ball clips)
    SER       syllable error rate, edits / words in the prompt  0
    ID        share of voices whose pitch fits the face         1
              (and of faces that are square if the prompt says so)
    TV leak   correlation of the silent TV mouth with e         0 (hard clips)

A clip without a recognised face whose mouth moves, or without speech of about
the right level (`tracks`), scores as unrelated streams do; it is not left out.
The stars mark scores that resemble Sync-C and Sync-D of real clips but are not
the same. A score of one clip is a fraction (total, count); `bootstrap` adds up
those of many clips.

A number by itself says little: `bootstrap.share` returns how much of the way a
model goes from a generator that reads the prompt but ignores the other stream
(`blind`) to the codecs' ceiling.
"""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from ccl_jax.codecs.mel import SILENCE
from ccl_jax.data.synthetic.scene import STYLES, VOICES
from ccl_jax.metrics import tracks

MAX_LAG = 0.375  # seconds
MIN_RHO = 0.5  # from which on a lag means something
ONSET_WINDOW = 0.08  # seconds
# d(l) of two unrelated tracks, the mean |x - y| of two standard normals.
UNRELATED = 2 / math.sqrt(math.pi)
# A click's mel peaks this long after its impact: its decay, and the window.
CLICK_BIAS = 0.005
# Score -> decimals to print.
SCORES = {
  "EAC": 2,
  "lag ms": 0,
  "has lag": 2,
  "Sync-C*": 2,
  "Sync-D*": 2,
  "onset F1": 2,
  "onset ms": 0,
  "SER": 2,
  "ID": 2,
  "TV leak": 2,
  "WER": 2,  # of English speech, as the next: see `english`
  "phones": 2,
}
# Of these the share of the way from blind to ceiling is the headline.
HEADLINES = ("EAC", "onset F1")
# More is better.
RISING = {"EAC", "has lag", "Sync-C*", "onset F1", "ID", "phones"}


class PromptSpec(NamedTuple):
  """Contents that a prompt asks for."""

  words: list[str]
  has_ball: bool
  has_tv: bool
  style: str


ClipScores = dict[str, tuple[float, int]]  # of one clip: total, count


def parse_prompt(prompt: str) -> PromptSpec:
  """Reads a SynchWorld prompt: quoted words, "ball", "TV", "square"."""
  quoted = re.search(r'"([^"]*)"', prompt)
  return PromptSpec(
    quoted.group(1).split() if quoted else [],
    "ball" in prompt,
    "TV" in prompt,
    "square" if "square face" in prompt else "round",
  )


def measure(
  prompt: str,
  video: UInt8[np.ndarray, "t y x 3"] | None,
  mel: Float[np.ndarray, "k 80"] | None,
  fps: float = 25.0,
) -> ClipScores:
  """Returns the scores of one clip that can be measured.

  Without sound there are none, without video only SER.

  Args:
    mel: log10-mel as in `codecs.mel`; it is cut to the video's length.

  Raises:
    ValueError: neither stream, or a mel that ends long before the video.
  """
  if video is None and mel is None:
    raise ValueError("A clip to measure needs video or audio.")
  wanted = parse_prompt(prompt)
  if mel is None:
    return {}
  mel = _cut_mel(mel, video, fps)
  words, pitch = tracks.decode_speech(mel)
  scores = {}
  if wanted.words:
    edits = edit_distance(words, wanted.words)
    scores["SER"] = (float(edits), len(wanted.words))
  if video is None:
    return scores
  face = tracks.find_face(video)
  opening = tracks.mouth_opening(video, face) if face else np.zeros(len(video))
  energy = tracks.speech_energy(mel, len(video), fps)
  scores["ID"] = (float(_is_voice_of(face, pitch, video, wanted.style)), 1)
  scores |= synchrony_scores(opening, energy, fps)
  if wanted.has_ball:
    impacts, clicks = tracks.find_impacts(video, fps), tracks.find_clicks(mel)
    scores |= onset_scores(impacts, clicks)
  if wanted.has_tv:
    silent = _standardise(tracks.tv_opening(video))
    scores["TV leak"] = (float((silent * _standardise(energy)).mean()), 1)
  return scores


def _cut_mel(
  mel: np.ndarray, video: np.ndarray | None, fps: float
) -> np.ndarray:
  """Returns the mel cut to the video's length, with silence in place of NaN.

  Raises:
    ValueError: it ends long before the video.
  """
  mel = np.nan_to_num(mel, nan=SILENCE, posinf=SILENCE, neginf=SILENCE)
  if video is not None:
    seconds = len(video) / fps
    if len(mel) < (seconds - 0.1) * tracks.MEL_RATE:
      raise ValueError(
        f"{mel.shape=} at {tracks.MEL_RATE} Hz ends before {video.shape=} at"
        f" {fps=}: pass the mel of all of the sound."
      )
    mel = mel[: int(seconds * tracks.MEL_RATE)]
  return mel if len(mel) else np.full((1, 80), SILENCE)


def _is_voice_of(
  face: tracks.Face | None, pitch: int | None, video: np.ndarray, style: str
) -> bool:
  """Returns whether the voice is that of the face, in a world of a style."""
  if face is None or pitch is None:
    return False
  if STYLES[style][face.voice].pitch != VOICES[pitch].pitch:
    return False
  # A prompt that does not ask for squares may get any face.
  return style != "square" or tracks.is_square(video, face)


def synchrony_scores(
  opening: Float[np.ndarray, " t"], energy: Float[np.ndarray, " t"], fps: float
) -> ClipScores:
  """Returns EAC, lag and the two Sync scores of one clip's tracks."""
  a, e = _standardise(opening), _standardise(energy)
  if not (a.any() and e.any()):
    return {
      "EAC": (0.0, 1), "lag ms": (0.0, 0), "has lag": (0.0, 1),
      "Sync-C*": (0.0, 1), "Sync-D*": (UNRELATED, 1),
    }  # fmt: skip
  max_lag = min(round(MAX_LAG * fps), len(a) - 1)
  lags = np.arange(-max_lag, max_lag + 1)
  pairs = [
    (a[max(0, lag) : len(a) + lag], e[max(0, -lag) : len(e) - lag])
    for lag in lags
  ]
  rho = np.array([(x * y).sum() / len(a) for x, y in pairs])
  distance = np.array([np.abs(x - y).mean() for x, y in pairs])
  lag = abs(tracks.refine_peak(rho, int(rho.argmax())) - max_lag)
  has_lag = int(rho.max() > MIN_RHO)
  return {
    "EAC": (float(rho[max_lag]), 1),
    "lag ms": (has_lag * lag * 1000 / fps, has_lag),
    "has lag": (float(has_lag), 1),
    "Sync-C*": (float(np.median(distance) - distance.min()), 1),
    "Sync-D*": (float(distance[max_lag]), 1),
  }


def onset_scores(
  impacts: Float[np.ndarray, " i"], clicks: Float[np.ndarray, " j"]
) -> ClipScores:
  """Returns F1 and timing of clicks, matched one to one, nearest first."""
  apart = np.abs(impacts[:, None] - (clicks - CLICK_BIAS))
  matched = []
  while apart.size and apart.min() <= ONSET_WINDOW:
    i, j = np.unravel_index(apart.argmin(), apart.shape)
    matched.append(apart[i, j] * 1000)
    apart = np.delete(np.delete(apart, i, 0), j, 1)
  total = max(1, len(impacts) + len(clicks))  # F1 is 0 if both are missing
  return {
    "onset F1": (2.0 * len(matched), total),
    "onset ms": (sum(matched, 0.0), len(matched)),
  }


def edit_distance(got: Sequence[str], wanted: Sequence[str]) -> int:
  """Returns the fewest insertions, deletions and replacements."""
  row = list(range(len(wanted) + 1))
  for i, a in enumerate(got, 1):
    last, row = row, [i]
    for j, b in enumerate(wanted, 1):
      row.append(min(last[j - 1] + (a != b), last[j] + 1, row[-1] + 1))
  return row[-1]


def shuffle(prompts: Sequence[str]) -> list[int]:
  """Returns for each clip another one, with as many words if there is one."""
  wanted = [parse_prompt(prompt) for prompt in prompts]
  groups = {}
  for i, spec in enumerate(wanted):
    groups.setdefault((len(spec.words), spec.has_ball), []).append(i)
  others = [*range(1, len(prompts)), 0]
  for group in groups.values():
    if len(group) > 1:
      for i, other in zip(group, group[1:] + group[:1], strict=True):
        others[i] = other
  return others


def _standardise(track: np.ndarray) -> np.ndarray:
  """Returns z: mean 0 and deviation 1; zeros if the track never moves."""
  spread = track.std()
  return (track - track.mean()) / spread if spread > 1e-3 else track * 0

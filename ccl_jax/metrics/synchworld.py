"""Scores of SynchWorld clips: is the sound in time with the picture, and right?

With z the standardised tracks, a the mouth's opening and e the speech energy,
over n frames and lags |l| <= 0.375 s,

    rho(l) = 1/n sum_i z(a)_{i+l} z(e)_i    d(l) = mean_i |z(a)_{i+l} - z(e)_i|

(1/n, not the mean, favours small lags where syllables repeat.) The scores are

    EAC       rho(0), envelope-aperture correlation             1 is best
    lag ms    |argmax rho|, refined by a parabola               0
    Sync-C*   median d - min d                                  large
    Sync-D*   d(0)                                              0
    onset F1  impacts and clicks matched within 100 ms          1 (ball clips)
    onset ms  mean |impact - click| over the matched, less bias 0 (ball clips)
    SER       syllable error rate, edits / vowels asked for     0
    ID        does the voice's pitch belong to the face?        1
    TV leak   |correlation of the silent TV mouth with e|       0 (hard clips)

They are shaped like, and are not, the Sync-C, Sync-D, DeSync, WER and IB of
real clips: hence the stars. Every score of a clip is a fraction (total, count)
and a score of many clips is sum of totals / sum of counts, so a clip in which
something cannot be measured adds nothing. Print ground truth, codec ceiling
and shuffled floor beside a model: the best EAC is below 1.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from ccl_jax.metrics import tracks

MAX_LAG = 0.375  # seconds
ONSET_WINDOW = 0.1  # seconds
# A click's mel peaks this long after its impact: its decay, and the window.
CLICK_BIAS = 0.005
SCORES = {
  "EAC": 2,
  "lag ms": 0,
  "Sync-C*": 2,
  "Sync-D*": 2,
  "onset F1": 2,
  "onset ms": 0,
  "SER": 2,
  "ID": 2,
  "TV leak": 2,
}  # and the decimals to print


class PromptSpec(NamedTuple):
  """What the prompt asks for."""

  vowels: list[str]
  has_ball: bool
  has_tv: bool


class Score(NamedTuple):
  """Many clips' score and the ends of its 95 % bootstrap interval."""

  value: float
  low: float
  high: float


Clip = dict[str, tuple[float, int]]
Row = dict[str, Score]


def asked(prompt: str) -> PromptSpec:
  """Reads a SynchWorld prompt: quoted vowels, "ball", "TV"."""
  quoted = re.search(r'"([^"]*)"', prompt)
  return PromptSpec(
    quoted.group(1).split() if quoted else [], "ball" in prompt, "TV" in prompt
  )


def measure(
  prompt: str,
  video: UInt8[np.ndarray, "t y x 3"] | None,
  mel: Float[np.ndarray, "k 80"] | None,
  fps: float = 25.0,
) -> Clip:
  """All scores of one clip, name -> (total, count).

  mel: log10-mel as of `codecs.mel`; what is longer than the video is cut off.
  A clip without picture or without sound has the scores it can have.

  Raises:
    ValueError: neither, or a mel that ends long before the video.
  """
  if video is None and mel is None:
    raise ValueError("A clip to measure needs a picture or a sound.")
  wanted = asked(prompt)
  if mel is None:
    return {}
  if video is not None:
    seconds = len(video) / fps
    if len(mel) < (seconds - 0.1) * tracks.MEL_RATE:
      raise ValueError(
        f"{mel.shape=} at {tracks.MEL_RATE} Hz ends before {video.shape=} at"
        f" {fps=}; give the whole sound."
      )
    mel = mel[: int(seconds * tracks.MEL_RATE)]
  vowels, pitch = tracks.decode_speech(mel)
  clip = {}
  if wanted.vowels:
    edits = edit_distance(vowels, wanted.vowels)
    clip["SER"] = (float(edits), len(wanted.vowels))
  if video is None:
    return clip
  voice = tracks.identify_face(video)
  energy = tracks.speech_energy(mel, len(video), fps)
  clip["ID"] = (float(voice == pitch), 1)
  clip |= synchrony(tracks.mouth_opening(video, voice), energy, fps)
  if wanted.has_ball:
    clip |= onsets(tracks.find_impacts(video, fps), tracks.find_clicks(mel))
  if wanted.has_tv:
    flapping = _standard(tracks.tv_opening(video))
    clip["TV leak"] = (abs((flapping * _standard(energy)).mean()), 1)
  return clip


def synchrony(
  opening: Float[np.ndarray, " t"], energy: Float[np.ndarray, " t"], fps: float
) -> Clip:
  """EAC, lag and the two Sync scores of one clip's tracks."""
  a, e = _standard(opening), _standard(energy)
  reach = round(MAX_LAG * fps)
  lags = np.arange(-reach, reach + 1)
  pairs = [
    (a[max(0, lag) : len(a) + lag], e[max(0, -lag) : len(e) - lag])
    for lag in lags
  ]
  rho = np.array([(x * y).sum() / len(a) for x, y in pairs])
  distance = np.array([np.abs(x - y).mean() for x, y in pairs])
  lag = reach * 1000 / fps  # of a track that never moves
  if a.any() and e.any():
    lag = abs(tracks.refine(rho, int(rho.argmax())) - reach) * 1000 / fps
  return {
    "EAC": (rho[reach], 1),
    "lag ms": (lag, 1),
    "Sync-C*": (np.median(distance) - distance.min(), 1),
    "Sync-D*": (distance[reach], 1),
  }


def onsets(
  impacts: Float[np.ndarray, " i"], clicks: Float[np.ndarray, " j"]
) -> Clip:
  """F1 and timing of the clicks, matched one to one, nearest pairs first."""
  apart = np.abs(impacts[:, None] - (clicks - CLICK_BIAS))
  matched = []
  while apart.size and apart.min() <= ONSET_WINDOW:
    i, j = np.unravel_index(apart.argmin(), apart.shape)
    matched.append(apart[i, j] * 1000)
    apart = np.delete(np.delete(apart, i, 0), j, 1)
  total = max(1, len(impacts) + len(clicks))  # neither: asked for, not made
  return {
    "onset F1": (2.0 * len(matched), total),
    "onset ms": (sum(matched, 0.0), len(matched)),
  }


def edit_distance(got: Sequence[str], wanted: Sequence[str]) -> int:
  """The fewest insertions, deletions and replacements between the two."""
  row = list(range(len(wanted) + 1))
  for i, a in enumerate(got, 1):
    last, row = row, [i]
    for j, b in enumerate(wanted, 1):
      row.append(min(last[j - 1] + (a != b), last[j] + 1, row[-1] + 1))
  return row[-1]


def aggregate(clips: Sequence[Clip], resamples: int = 1000) -> Row:
  """Scores over clips, with intervals; what no clip has is left out."""
  values = _resampled(clips, resamples)
  return {name: _interval(sample) for name, sample in values.items()}


def compare(
  clips: Sequence[Clip], baseline: Sequence[Clip], resamples: int = 1000
) -> Row:
  """Score minus the baseline's, clip i paired with clip i.

  Raises:
    ValueError: not equally many clips.
  """
  if len(clips) != len(baseline):
    raise ValueError(
      f"{len(clips)} clips cannot be paired with {len(baseline)} clips."
    )
  ours, theirs = (_resampled(c, resamples) for c in (clips, baseline))
  return {
    name: _interval(ours[name] - theirs[name])
    for name in ours.keys() & theirs.keys()
  }


def table(rows: Mapping[str, Row]) -> str:
  """Markdown: a line for each named row, a column for each score."""
  names = [name for name in SCORES if any(name in row for row in rows.values())]
  lines = [["", *names], ["---", *(["---:"] * len(names))]]
  for title, row in rows.items():
    lines.append([title, *(_cell(row.get(name), name) for name in names)])
  return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(score: Score | None, name: str) -> str:
  """ "0.84 ±0.02": the value and half of its interval."""
  if score is None:
    return "-"
  half, digits = (score.high - score.low) / 2, SCORES[name]
  return f"{score.value:.{digits}f} ±{half:.{digits}f}"


def _resampled(clips, resamples: int) -> dict[str, np.ndarray]:
  """Each score of the clips as they are, then of `resamples` redrawn sets.

  The same number of clips is redrawn alike, which is what pairs `compare`.
  """
  num = len(clips)
  redrawn = np.random.default_rng(0).multinomial(
    num, np.full(num, 1 / num), resamples
  )
  weights = np.concatenate([np.ones((1, num)), redrawn])
  values = {}
  for name in SCORES:
    fractions = np.array([clip.get(name, (0, 0)) for clip in clips], float)
    if fractions[:, 1].any():
      totals, counts = (weights @ fractions).T
      missing = np.full(len(weights), np.nan)
      values[name] = np.divide(totals, counts, out=missing, where=counts > 0)
  return values


def _interval(values: np.ndarray) -> Score:
  low, high = np.nanpercentile(values, (2.5, 97.5))
  return Score(float(values[0]), float(low), float(high))


def _standard(track: np.ndarray) -> np.ndarray:
  """z: mean 0 and deviation 1; zeros if it never moves."""
  spread = track.std()
  return (track - track.mean()) / spread if spread > 1e-3 else track * 0

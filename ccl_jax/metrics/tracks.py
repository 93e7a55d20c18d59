"""Measurement of SynchWorld clips: tracks and events from pixels and log-mel.

Nothing here is learned. From the video: the face's identity and centre, the
opening of the mouth, and the impacts of the ball. From the log-mel: speech
energy, clicks, vowels and pitch. What is not there is not measured: a face is a
disc of one of the colours, before another ground, in nearly all frames; its
mouth is dark beside the face, whatever the light; speech and clicks have about
the level of the world's, and speech comes in syllables. Lengths are 64ths of
the frame, times are seconds; mel frame k is centred at (256 k + 128) / 16000 s.
"""

import functools
import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage, signal

from ccl_jax.codecs import mel as mels
from ccl_jax.data.synthetic import render
from ccl_jax.data.synthetic.scene import HEAD, SYLLABLE, VOICES, VOWELS
from ccl_jax.data.synthetic.sound import render_vowel

MEL_RATE = mels.SAMPLE_RATE / mels.HOP
SPEECH_BAND, CLICK_BAND = (180.0, 1300.0), (4200.0, 8000.0)
VOWEL_BANDS = ((80.0, 1300.0), (2100.0, 2700.0))  # between them: chirps
_COLOUR_SPREAD = 0.2
# The TV's mouth is darker than this; a talker's than this part of its face, so
# that the dark area is nearly linear in the opening.
_DARK = 0.5
# Of a square's corners, which the demo's codecs leave 0.3 of; of round faces
# they make 0.18 at most.
_MIN_CORNERS = 0.24
_MIN_MOVE = 12.0  # area by which a mouth that speaks changes, at least
_LOUDNESS = (0.3, 3.0)  # of the quietest and of the loudest vowel
_CLICK_LEVEL = (0.02, 0.8)  # of the mean magnitude at a click's peak


class Face(NamedTuple):
  """A face: the index of its colour in VOICES, and its centre per frame."""

  voice: int
  centre: Float[np.ndarray, "t 2"]


def find_face(video: UInt8[np.ndarray, "t y x 3"]) -> Face | None:
  """Returns the face of the most frequent colour, None if there is none.

  In 9 of 10 frames the colour must fill the face (eyes and mouth take at most a
  third of it), but not its surroundings.
  """
  mass = [_likeness(video[::4], voice.rgb).sum() for voice in VOICES]
  voice = int(np.argmax(mass))
  likeness = _likeness(video, VOICES[voice].rgb)
  centre = _face_centre(video.shape[1], likeness)
  dx, dy = _offsets(video.shape[1], centre)
  radius = np.hypot(dx, dy)
  ground = np.abs(radius - render.FACE_RADIUS - 4) < 2
  inside = _mean(likeness > 0.2, radius < render.FACE_RADIUS)
  seen = (inside > 0.58) & (_mean(likeness, ground) < 0.4)
  return Face(voice, centre) if seen.mean() >= 0.9 else None


def _face_centre(size: int, likeness) -> Float[np.ndarray, "t 2"]:
  """Returns (x, y) per frame: the centroid of the colour, found iteratively.

  Only pixels near the last centroid count, so that a distractor of the face's
  colour has no effect.
  """
  likeness = np.where(likeness > 0.2, likeness, 0)
  centre = np.broadcast_to(HEAD, (len(likeness), 2))
  reach = 1.5 * render.FACE_RADIUS
  for _ in range(3):
    dx, dy = _offsets(size, centre)
    weight = likeness * (dx**2 + dy**2 < reach**2) + 1e-9
    moments = [(weight * d).sum((1, 2)) for d in (dx, dy)]
    centre = centre + np.stack(moments, 1) / weight.sum((1, 2))[:, None]
  return centre


def is_square(video: UInt8[np.ndarray, "t y x 3"], face: Face) -> bool:
  """Returns whether the face fills the corners of a square around it."""
  rgb = VOICES[face.voice].rgb
  dx, dy = _offsets(video.shape[1], face.centre)
  inside = np.maximum(np.abs(dx), np.abs(dy)) < render.FACE_HALF
  corners = inside & (np.hypot(dx, dy) > render.FACE_RADIUS + 0.5)
  return bool(_mean(_likeness(video, rgb), corners).mean() > _MIN_CORNERS)


def mouth_opening(
  video: UInt8[np.ndarray, "t y x 3"], face: Face
) -> Float[np.ndarray, " t"]:
  """Returns the dark area around the mouth's place; zeros if it is still.

  Dark is what is darker than the face in that frame.
  """
  dx, dy = _offsets(video.shape[1], face.centre)
  mouth, bright = _mouth_box(dx, dy), video.max(-1) / 255
  skin = (np.hypot(dx, dy) < render.FACE_RADIUS - 2) & ~mouth & (dy > -2)
  light = _mean(bright, skin)[:, None, None] + 1e-3
  area = _dark_area(bright / light, mouth)
  return area if np.ptp(area) > _MIN_MOVE else area * 0


def tv_opening(
  video: UInt8[np.ndarray, "t y x 3"],
) -> Float[np.ndarray, " t"]:
  """Returns the dark area inside the TV of hard clips, per frame."""
  x, y, half_width, half_height = render.TV_BOX
  dx, dy = _offsets(video.shape[1], np.array([[x, y]]))
  inside = (np.abs(dx) < half_width - 1) & (np.abs(dy) < half_height - 1)
  return _dark_area(video.max(-1) / 255, inside)


def find_impacts(
  video: UInt8[np.ndarray, "t y x 3"], fps: float
) -> Float[np.ndarray, " i"]:
  """Returns the times at which the ball is nearest to the floor or the wall.

  None without a ball: something of its colour and about its size.
  """
  likeness = _likeness(video, render.BALL_RGB)
  likeness = np.where(likeness > 0.2, likeness, 0)
  mass = likeness.sum((1, 2)) * (64 / video.shape[1]) ** 2
  if not 0.2 < np.median(mass) / (np.pi * render.BALL_RADIUS**2) < 2:
    return np.zeros(0)
  grid = _grid(video.shape[1])
  # The ball moves along one axis, towards larger x or y.
  place = _mean(grid + grid[:, None], likeness)
  return peak_times(place, prominence=4.0) / fps


def video_parts(
  video: UInt8[np.ndarray, "t y x 3"],
) -> dict[str, Bool[np.ndarray, "t y x"]]:
  """Returns where the face, its mouth and the ball are; {} without a face."""
  face = find_face(video)
  if face is None:
    return {}
  dx, dy = _offsets(video.shape[1], face.centre)
  return {
    "face": np.hypot(dx, dy) < render.FACE_RADIUS,
    "mouth": _mouth_box(dx, dy),
    "ball": _likeness(video, render.BALL_RGB) > 0.2,
  }


def sound_parts(
  mel: Float[np.ndarray, "k 80"],
) -> dict[str, Bool[np.ndarray, " k"]]:
  """Returns which mel frames have speech, and which a click."""
  _, quietest, _ = _templates()
  apart = np.abs(mel_times(len(mel))[:, None] - find_clicks(mel))
  return {
    "speech": _band(mel, SPEECH_BAND).sum(1) > _LOUDNESS[0] * quietest,
    "clicks": (apart < 0.03).any(1),
  }


def speech_energy(
  mel: Float[np.ndarray, "k 80"], frames: int, fps: float
) -> Float[np.ndarray, " t"]:
  """Returns log(1 + E / 2) at each video frame; zeros if it is not speech.

  E sums the magnitudes of 180-1300 Hz; mel frames are weighted by a triangle
  that reaches one video frame to either side. Speech has the level of vowels
  and no stretch above half of its maximum that is longer than two syllables.
  """
  level = _band(mel, SPEECH_BAND).sum(1)
  _, quietest, loudest = _templates()
  stretches = [x.stop - x.start for x in _runs(level > level.max() / 2)]
  if (
    not _LOUDNESS[0] * quietest < level.max() < _LOUDNESS[1] * loudest
    or max(stretches) > 2 * SYLLABLE[1] * MEL_RATE
  ):
    return np.zeros(frames)
  offset = np.arange(frames)[:, None] / fps - mel_times(len(mel))
  weight = np.maximum(0, 1 - np.abs(offset) * fps) + 1e-9
  return np.log1p(weight @ level / weight.sum(1) / 2)


def find_clicks(mel: Float[np.ndarray, "k 80"]) -> Float[np.ndarray, " i"]:
  """Returns the times of e^1.2-fold peaks, as loud as clicks, above 4200 Hz."""
  level = np.log(_band(mel, CLICK_BAND).mean(1))
  low, high = np.log(_CLICK_LEVEL).tolist()
  peaks = peak_times(level, prominence=1.2, height=(low, high))
  return peaks / MEL_RATE + mel_times(1)[0]


def decode_speech(
  mel: Float[np.ndarray, "k 80"],
) -> tuple[list[str], int | None]:
  """Returns the words and the index in VOICES of their pitch (None: silence).

  Stretches with speech energy are compared, by cosine, with the 12 exact
  spectra of 4 vowels at 3 pitches; one pitch is chosen for the clip. Equal
  vowels in a row are one word.
  """
  spectra, quietest, _ = _templates()
  energy = _band(mel, SPEECH_BAND).sum(1)
  heard = _runs(energy > _LOUDNESS[0] * quietest)
  spans = [run for run in heard if run.stop - run.start >= 5]
  if not spans:
    return [], None
  found = np.stack([_spectrum(mel[span], energy[span]) for span in spans])
  scores = np.einsum("ic,pvc->ipv", found, spectra)
  pitch = int(scores.max(2).sum(0).argmax())
  names = list(VOWELS)
  best = [names[v] for v in scores[:, pitch].argmax(1)]
  return [vowel for vowel, _ in itertools.groupby(best)], pitch


def peak_times(
  track: Float[np.ndarray, " t"],
  prominence: float,
  height: tuple[float, float] | None = None,
) -> Float[np.ndarray, " i"]:
  """Returns the positions of prominent peaks, refined by a parabola."""
  peaks, _ = signal.find_peaks(track, height, prominence=prominence)
  return np.array([refine_peak(track, i) for i in peaks.tolist()], float)


def refine_peak(track: Float[np.ndarray, " t"], i: int) -> float:
  """Returns the vertex of the parabola through points i-1, i, i+1."""
  if not 0 < i < len(track) - 1:
    return float(i)
  before, at, after = track[i - 1 : i + 2]
  bend = 2 * at - before - after
  return float(i + (0.5 * (after - before) / bend if bend > 0 else 0))


def mel_times(num: int) -> Float[np.ndarray, " k"]:
  """Returns the centre of each mel frame."""
  return (np.arange(num) + 0.5) / MEL_RATE


def _likeness(video, rgb) -> np.ndarray:
  """Returns exp(-|pixel - rgb|^2 / 2 spread^2)."""
  distance = video.astype(np.float32) / 255 - np.float32(rgb)
  return np.exp(-(distance**2).sum(-1) / (2 * _COLOUR_SPREAD**2))


def _grid(size: int) -> np.ndarray:
  return (np.arange(size) + 0.5) * 64 / size


def _offsets(size: int, centre) -> tuple[np.ndarray, np.ndarray]:
  """Returns x and y of each frame's pixels, from a centre in that frame."""
  x, y = centre.T[:, :, None, None]
  return _grid(size) - x, _grid(size)[:, None] - y


def _mouth_box(dx, dy) -> np.ndarray:
  return (np.abs(dx) < 9) & (np.abs(dy - render.MOUTH_BELOW) < 9.5)


def _mean(values, weight) -> np.ndarray:
  """Returns the weighted mean of each frame."""
  weight = weight + 1e-9
  return (weight * values).sum((1, 2)) / weight.sum((1, 2))


def _runs(active) -> list[slice]:
  """Returns each stretch of true values."""
  return [run for (run,) in ndimage.find_objects(ndimage.label(active)[0])]


def _dark_area(bright, inside) -> np.ndarray:
  """Returns sum max(0, _DARK - brightness) / _DARK over what is inside."""
  dark = np.maximum(0, _DARK - bright) / _DARK
  return (dark * inside).sum((1, 2)) * (64 / bright.shape[1]) ** 2


def _band(mel, band) -> np.ndarray:
  """Returns magnitudes of the mel bands centred in a range of Hz."""
  low, high = band
  hertz = np.argmax(mels.filter_bank(), 1) * mels.SAMPLE_RATE / 1024
  return 10.0 ** mel[:, (hertz > low) & (hertz < high)]


def _spectrum(mel, weight) -> np.ndarray:
  """Returns a unit vector: the root of the weighted mean vowel magnitudes."""
  bands = np.concatenate([_band(mel, band) for band in VOWEL_BANDS], 1)
  root = np.sqrt(weight @ bands / weight.sum())
  return root / np.linalg.norm(root)


@functools.cache
def _templates() -> tuple[np.ndarray, float, float]:
  """Returns spectra (pitch, vowel, band), the least and most speech energy."""
  time = np.arange(4096) / mels.SAMPLE_RATE
  sounds = [
    render_vowel(vowel, voice.pitch, time)
    for voice in VOICES
    for vowel in VOWELS
  ]
  steady = mels.log_mel(np.stack(sounds))[:, 4:-4]
  spectra = np.stack([_spectrum(mel, np.ones(len(mel))) for mel in steady])
  energy = [float(_band(m, SPEECH_BAND).sum(1).mean()) for m in steady]
  spectra = spectra.reshape(len(VOICES), -1, spectra.shape[-1])
  return spectra, min(energy), max(energy)

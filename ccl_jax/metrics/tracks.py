"""Measurement of SynchWorld clips: tracks and events from pixels and log-mel.

Nothing here is learned. From the video: the face's identity and centre, the
opening of the mouth, and the impacts of the ball. From the log-mel: speech
energy, clicks, vowels and pitch. Lengths are 64ths of the frame, times are
seconds; mel frame k is centred at (256 k + 128) / 16000 s.
"""

import functools

import numpy as np
from jaxtyping import Float, UInt8
from scipy import signal

from ccl_jax.codecs import mel as mels
from ccl_jax.data.synthetic import render
from ccl_jax.data.synthetic.scene import HEAD, VOICES, VOWELS, render_vowel

MEL_RATE = mels.SAMPLE_RATE / mels.HOP
SPEECH_BAND, CLICK_BAND = (180.0, 1300.0), (4200.0, 8000.0)
VOWEL_BANDS = ((80.0, 1300.0), (2100.0, 2700.0))  # between them: chirps
_COLOUR_SPREAD = 0.2
# Darker than any face or ground, so that the dark area is nearly linear in the
# opening.
_DARK = 0.5


def identify_face(video: UInt8[np.ndarray, "t y x 3"]) -> int:
  """Returns the index in VOICES of the most frequent face colour."""
  mass = [_likeness(video[::4], voice.rgb).sum() for voice in VOICES]
  return int(np.argmax(mass))


def face_centre(
  video: UInt8[np.ndarray, "t y x 3"], voice: int
) -> Float[np.ndarray, "t 2"]:
  """Returns (x, y) per frame: the centroid of the colour, found iteratively.

  Only pixels near the last centroid count, so that a distractor of the face's
  colour has no effect.
  """
  likeness = _likeness(video, VOICES[voice].rgb)
  likeness = np.where(likeness > 0.2, likeness, 0)
  grid = _grid(video.shape[1])
  centre = np.broadcast_to(HEAD, (len(video), 2))
  reach = 1.5 * render.FACE_RADIUS
  for _ in range(3):
    dx, dy = _offsets(grid, centre)
    weight = likeness * (dx**2 + dy**2 < reach**2) + 1e-9
    moments = [(weight * d).sum((1, 2)) for d in (dx, dy)]
    centre = centre + np.stack(moments, 1) / weight.sum((1, 2))[:, None]
  return centre


def mouth_opening(
  video: UInt8[np.ndarray, "t y x 3"], voice: int
) -> Float[np.ndarray, " t"]:
  """Returns the dark area around the expected place of the mouth, per frame."""
  below = np.array([0.0, render.MOUTH_BELOW])
  return _dark_area(video, face_centre(video, voice) + below, 9.0, 8.5)


def tv_opening(
  video: UInt8[np.ndarray, "t y x 3"],
) -> Float[np.ndarray, " t"]:
  """Returns the dark area inside the TV of hard clips, per frame."""
  x, y, half_width, half_height = render.TV_BOX
  centre = np.broadcast_to([x, y], (len(video), 2))
  return _dark_area(video, centre, half_width - 1, half_height - 1)


def find_impacts(
  video: UInt8[np.ndarray, "t y x 3"], fps: float
) -> Float[np.ndarray, " i"]:
  """Returns the times at which the ball is lowest; none without a ball."""
  likeness = _likeness(video, render.BALL_RGB)
  likeness = np.where(likeness > 0.2, likeness, 0)
  mass = likeness.sum((1, 2)) * (64 / video.shape[1]) ** 2
  if np.median(mass) < 0.2 * np.pi * render.BALL_RADIUS**2:
    return np.zeros(0)
  grid = _grid(video.shape[1])
  weight = likeness + 1e-9
  y = (weight * grid[:, None]).sum((1, 2)) / weight.sum((1, 2))
  return peak_times(y, prominence=4.0) / fps


def speech_energy(
  mel: Float[np.ndarray, "k 80"], frames: int, fps: float
) -> Float[np.ndarray, " t"]:
  """Returns log(1 + E / 2) at each video frame.

  E sums the magnitudes of 180-1300 Hz; mel frames are weighted by a triangle
  that reaches one video frame to either side.
  """
  offset = np.arange(frames)[:, None] / fps - mel_times(len(mel))
  weight = np.maximum(0, 1 - np.abs(offset) * fps) + 1e-9
  energy = weight @ _band(mel, SPEECH_BAND).sum(1) / weight.sum(1)
  return np.log1p(energy / 2)


def find_clicks(mel: Float[np.ndarray, "k 80"]) -> Float[np.ndarray, " i"]:
  """Returns the times of e^1.2-fold peaks of the level above 4200 Hz."""
  level = np.log(_band(mel, CLICK_BAND).mean(1))
  return peak_times(level, prominence=1.2) / MEL_RATE + mel_times(1)[0]


def decode_speech(
  mel: Float[np.ndarray, "k 80"],
) -> tuple[list[str], int | None]:
  """Returns the vowels and the index in VOICES of their pitch (None: silence).

  Stretches with speech energy are compared, by cosine, with the 12 exact
  spectra of 4 vowels at 3 pitches; one pitch is chosen for the clip.
  """
  spectra, quietest = _templates()
  energy = _band(mel, SPEECH_BAND).sum(1)
  heard = np.diff(np.r_[0, energy > 0.3 * quietest, 0].astype(int))
  starts, stops = np.flatnonzero(heard > 0), np.flatnonzero(heard < 0)
  spans = [
    slice(a, b) for a, b in zip(starts, stops, strict=True) if b - a >= 5
  ]
  if not spans:
    return [], None
  found = np.stack([_spectrum(mel[span], energy[span]) for span in spans])
  scores = np.einsum("ic,pvc->ipv", found, spectra)
  pitch = int(scores.max(2).sum(0).argmax())
  names = list(VOWELS)
  return [names[v] for v in scores[:, pitch].argmax(1)], pitch


def peak_times(
  track: Float[np.ndarray, " t"], prominence: float
) -> Float[np.ndarray, " i"]:
  """Returns the positions of prominent peaks, refined by a parabola."""
  peaks, _ = signal.find_peaks(track, prominence=prominence)
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


def _offsets(grid, centre) -> tuple[np.ndarray, np.ndarray]:
  return (
    grid - centre[:, 0, None, None],
    grid[:, None] - centre[:, 1, None, None],
  )


def _dark_area(video, centre, half_width, half_height) -> np.ndarray:
  """Returns sum max(0, _DARK - brightest channel) / _DARK inside a box."""
  dx, dy = _offsets(_grid(video.shape[1]), centre)
  inside = (np.abs(dx) < half_width) & (np.abs(dy) < half_height)
  dark = np.maximum(0, _DARK - video.max(-1) / 255) / _DARK
  return (dark * inside).sum((1, 2)) * (64 / video.shape[1]) ** 2


@functools.cache
def _centres() -> np.ndarray:
  """Returns the centre of each mel band in Hz."""
  return np.argmax(mels.filter_bank(), 1) * mels.SAMPLE_RATE / 1024


def _band(mel, band) -> np.ndarray:
  """Returns magnitudes of the mel bands centred in a range of Hz."""
  low, high = band
  return 10.0 ** mel[:, (_centres() > low) & (_centres() < high)]


def _spectrum(mel, weight) -> np.ndarray:
  """Returns a unit vector: the root of the weighted mean vowel magnitudes."""
  bands = np.concatenate([_band(mel, band) for band in VOWEL_BANDS], 1)
  root = np.sqrt(weight @ bands / weight.sum())
  return root / np.linalg.norm(root)


@functools.cache
def _templates() -> tuple[np.ndarray, float]:
  """Returns spectra (pitch, vowel, band) and the least speech energy."""
  time = np.arange(4096) / mels.SAMPLE_RATE
  sounds = [
    render_vowel(vowel, voice.pitch, time)
    for voice in VOICES
    for vowel in VOWELS
  ]
  steady = mels.log_mel(np.stack(sounds))[:, 4:-4]
  spectra = np.stack([_spectrum(mel, np.ones(len(mel))) for mel in steady])
  energy = min(float(_band(m, SPEECH_BAND).sum(1).mean()) for m in steady)
  return spectra.reshape(len(VOICES), -1, spectra.shape[-1]), energy

"""Clips that flash white while they beep, and when a read clip does so."""

import numpy as np

from ccl_jax.data import media

# Top left, top right, bottom left, bottom right.
QUADRANTS = np.array(
  [(200, 30, 30), (30, 200, 30), (30, 30, 200), (120, 120, 120)]
)


def picture(size=(96, 128), is_lit=False):
  """Returns the quadrants around a black middle, or a white one."""
  y, x = size
  image = np.zeros((y, x, 3), np.uint8)
  for i, colour in enumerate(QUADRANTS):
    rows, columns = (slice(y // 2), slice(y // 2, y))[i // 2], i % 2
    image[rows, columns * (x // 2) : x // 2 + columns * x] = colour
  image[y // 3 : -(y // 3), x // 3 : -(x // 3)] = 255 if is_lit else 0
  return image


def beeps(seconds, times, rate=48_000, length=0.08):
  """Returns a tone of 1 kHz of `length` seconds at each time, else silence."""
  time = np.arange(round(seconds * rate)) / rate
  is_on = np.any([(time >= t) & (time < t + length) for t in times], axis=0)
  return (0.5 * is_on * np.sin(2000 * np.pi * time)).astype(np.float32)


def flash_times(video, fps=25.0):
  """Returns the times at which the middle of the picture turns white."""
  _, y, x, _ = video.shape
  middle = video[:, y * 7 // 16 : y * 9 // 16, x * 7 // 16 : x * 9 // 16]
  return _starts(middle.mean((1, 2, 3)) > 128) / fps


def beep_times(audio, rate=16_000):
  """Returns the times at which a tone begins."""
  level = np.abs(audio)
  if not level.max(initial=0):
    return np.zeros(0)
  # A tone is on if it was loud within the last 5 ms.
  loud = np.flatnonzero(level > 0.3 * level.max())
  is_first = np.diff(loud, prepend=-rate) > 0.005 * rate
  return loud[is_first] / rate


def offsets(clip: media.Clip, fps=25.0):
  """Returns time of the flash minus time of the beep, for each flash."""
  flashes, sounds = flash_times(clip.video, fps), beep_times(clip.audio)
  return [t - sounds[np.abs(sounds - t).argmin()] for t in flashes]


def corners(image):
  """Returns the colours of the quadrants, away from edges and middle."""
  y, x = image.shape[:2]
  return np.array(
    [image[j, i] for j in (y // 8, y - y // 8) for i in (x // 8, x - x // 8)]
  ).astype(int)


def _starts(is_on):
  return np.flatnonzero(np.diff(is_on.astype(int), prepend=0) == 1)

"""Finds clips that look and sound like an earlier one, by perceptual hashes.

A hash has 256 bits, as hexadecimal digits: the signs of differences between
neighbouring regions of four frames, or between bands of sound. Encoding,
scaling and small changes of colour or level do not change them.
"""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

# Of 256 bits. Copies of lower quality, level and brightness differ in up to 26,
# different clips in 69 and more.
_MAX_DISTANCE = 40
_BANDS, _FRAMES = 9, 33
_RATE = 16_000
_MIN_CONTRAST = 1.0  # grey levels


def hash_pictures(grey: Float[np.ndarray, "t 64 64"]) -> str | None:
  """Returns the hash of four frames; None of a clip without contrast."""
  chosen = grey[np.arange(1, 8, 2) * len(grey) // 8]
  if chosen.std((1, 2)).max() < _MIN_CONTRAST:
    return None
  columns = np.linspace(0, 64, 10).astype(int)
  rows = chosen.reshape(4, 8, 8, 64).mean(2)
  cells = np.stack(
    [rows[..., a:b].mean(-1) for a, b in itertools.pairwise(columns)], -1
  )
  return _to_hex(np.diff(cells, axis=-1) > _MIN_CONTRAST)


def hash_sound(audio: Float[np.ndarray, " s"]) -> str | None:
  """Returns the hash of the bands' energies over time; None of silence."""
  if len(audio) < _RATE // 10 or not audio.any():
    return None
  edges = np.geomspace(100, _RATE / 2, _BANDS + 1)
  energy = []
  for piece in np.array_split(audio, _FRAMES):
    power = np.abs(np.fft.rfft(piece * np.hanning(len(piece)))) ** 2
    places = np.round(edges * len(piece) / _RATE).astype(int)
    energy.append(
      [power[i : j + 1].mean() for i, j in itertools.pairwise(places)]
    )
  log = np.log(np.array(energy) + 1e-8)
  return _to_hex(np.diff(np.diff(log, axis=1), axis=0) > 0)


def find_duplicates(scores: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
  """Returns name -> the first clip, in order of name, that it is like.

  All streams that a clip has must be alike; silence is like silence.
  """
  hashes = {
    name: (row.get("picture_hash"), row.get("sound_hash"))
    for name, row in scores.items()
  }
  first: dict[tuple, list[str]] = {}
  found = {}
  for name, own in sorted(hashes.items()):
    if not any(own):
      continue
    kind = tuple(x is not None for x in own)
    # Copies have one of the pieces in common: of two hashes at most 15 bits
    # apart at least one of 16 is equal, and of others most often.
    keys = [
      (kind, which, i, digits[4 * i : 4 * i + 4])
      for which, digits in enumerate(own)
      for i in range(16 * (digits is not None))
    ]
    candidates = dict.fromkeys(x for key in keys for x in first.get(key, ()))
    for other in candidates:
      if all(map(_are_alike, own, hashes[other])):
        found[name] = other
        break
    else:
      for key in keys:
        first.setdefault(key, []).append(name)
  return found


def _are_alike(one: str | None, other: str | None) -> bool:
  if one is None or other is None:
    return one is other
  return (int(one, 16) ^ int(other, 16)).bit_count() <= _MAX_DISTANCE


def _to_hex(bits: np.ndarray) -> str:
  return np.packbits(bits.ravel()).tobytes().hex()

"""Decoded sound, in the order of its time stamps, at one rate, as mono."""

import math

import av
import numpy as np
from jaxtyping import Float

from ccl_jax.data import audio_clock
from ccl_jax.data.opening import ClipError

# Encoders end sound a little before or after the video: a missing tail of up to
# this many seconds is filled with silence and is no error.
MAX_MISSING_TAIL = 0.1
# A mix whose energy is below this share of its parts' has lost the sound.
_MIN_MIX = 2e-3
# The mean of both sides of ITU-R BS.775's mix, by the names of channels, and
# that of those at the sides, behind and above.
_GAINS = {
  **dict.fromkeys(("FL", "FR", "FLC", "FRC", "DL", "DR", "BC"), 0.5),
  **{"FC": 0.5**0.5, "LFE": 0.0, "LFE2": 0.0},
}
_AROUND = 0.5**1.5
# What channels without names are, as FFmpeg's tools take them.
_UNNAMED = {6: "5.1", 8: "7.1"}


class AudioResampler:
  """Sound on the clock: mixed to one channel, at one sample rate.

  Channels are mixed to stereo by the matrix of ITU-R BS.775 (the centre at
  -3 dB in both), and the result is the mean of both sides; channels of unknown
  position are averaged. Loud passages may exceed 1.
  """

  def __init__(self, stream: av.AudioStream, sample_rate: int):
    self.stream, self._rate = stream, sample_rate
    self.start: float | None = None
    self.passed_over = 0.0  # seconds of the stream before `start`
    self.end = -math.inf
    self._skipped = 0.0
    self._format, self._resampler, self._gains = None, None, None
    # Pieces of sound, each with the time of its first sample.
    self._pieces: list[tuple[float, np.ndarray]] = []
    self._mix_energy = self._parts_energy = 0.0

  def add(self, frame: av.AudioFrame) -> None:
    """Takes the next input frame, which may have another rate and layout."""
    if self.start is None:
      self.start = frame.time
    self.end = frame.time + frame.samples / frame.sample_rate
    self._skipped = 0.0
    form = (frame.format.name, frame.layout.name, frame.sample_rate)
    if form != self._format:
      if self._resampler is not None:
        self._resample(None)
      self._format, self._gains = form, _gains(frame.layout)
      # PyAV reads less than eight channels that lie apart.
      sample = "fltp" if len(self._gains) < 8 else "flt"
      self._resampler = av.AudioResampler(sample, None, self._rate)
    self._resample(frame)

  def skip(self, packet: av.Packet) -> None:
    """Leaves out a refused packet; ClipError after `MAX_MISSING_TAIL` s."""
    self._skipped += stated_seconds(packet) or 0.02
    if self._skipped > MAX_MISSING_TAIL:
      raise ClipError(f"sound is damaged after {max(self.end, 0):.2f} s")

  def finish(
    self, start: float | None, seconds: float | None
  ) -> Float[np.ndarray, " s"]:
    """Returns `seconds` of sound from the time `start` on.

    Args:
      start: None is the sound's own start.
      seconds: None is all.

    Raises:
      ClipError: the sound ends more than `MAX_MISSING_TAIL` too early, or its
        channels cancel each other.
    """
    if self._format is None:
      raise ClipError("has no decodable sound")
    self._resample(None)
    if self._mix_energy < _MIN_MIX * self._parts_energy:
      raise ClipError(
        "sound is in antiphase: its channels cancel each other when they are"
        " mixed; turn one of them over, or give one channel"
      )
    start = self.start if start is None else start
    length = self.end - start
    needed = seconds
    if seconds is None:
      needed = stated_seconds(self.stream) - self.passed_over
    check_length("audio", length, needed - MAX_MISSING_TAIL)
    seconds = length if seconds is None else seconds
    num = round(seconds * self._rate)
    return audio_clock.join(self._pieces, start, num, self._rate)

  def _resample(self, frame: av.AudioFrame | None) -> None:
    """Resamples a frame; None flushes the resampler."""
    for piece in self._resampler.resample(frame):
      channels = piece.to_ndarray()
      if not piece.format.is_planar:
        channels = channels.reshape(-1, len(self._gains)).T
      # Not FFmpeg's mix to mono: it makes what both sides share louder.
      parts = self._gains[:, None] * channels
      mix = parts.sum(0)
      self._mix_energy += float(np.vdot(mix, mix))
      self._parts_energy += float(np.vdot(parts, parts))
      self._pieces.append((float(piece.time), mix))


def _gains(layout: av.AudioLayout) -> Float[np.ndarray, " c"]:
  """Returns the share of each channel in the mix."""
  num = layout.nb_channels
  names = [channel.name for channel in layout.channels]
  if num in _UNNAMED and set(names) == {"NONE"}:
    names = [x.name for x in av.AudioLayout(_UNNAMED[num]).channels]
  if num > 1 and _GAINS.keys() & set(names):
    return np.array([_GAINS.get(x, _AROUND) for x in names], np.float32)
  return np.full(num, 1 / num, np.float32)


def stated_seconds(
  part: av.stream.Stream | av.Packet | av.frame.Frame,
) -> float:
  """Returns the duration that a file states of a part; 0 if it has none."""
  return float((part.duration or 0) * part.time_base)


def check_length(kind: str, seconds: float, needed: float) -> None:
  """Raises ClipError if a stream ends too early."""
  if seconds < needed:
    raise ClipError(
      f"{kind} is too short: {seconds:.2f} s of {needed:.2f} s needed"
      " (a shorter clip, or a truncated file)"
    )

"""Sound on the clock, whatever its packets, stamps, rates and channels are."""

from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile

from ccl_jax.data import media
from tests.data import flash

RATE = 48_000
TIMES = (0.3, 0.9, 1.6)


def write_packets(path, pieces, rate=RATE):
  """Writes (time, samples) as PCM packets of these stamps, to microseconds."""
  with av.open(str(path), "w") as container:
    stream = container.add_stream("pcm_s16le", rate=rate, layout="mono")
    for time, samples in pieces:
      packet = av.Packet((samples * 32767).astype("<i2").tobytes())
      packet.stream, packet.time_base = stream, Fraction(1, 1_000_000)
      packet.pts = packet.dts = round(time * 1e6)
      packet.duration = round(len(samples) / rate * 1e6)
      container.mux(packet)


def packets(wave, length=1024):
  """Splits sound into pieces with their true times."""
  return [(i / RATE, wave[i : i + length]) for i in range(0, len(wave), length)]


def read(path):
  return media.read_clip(path, streams=("audio",)).audio


def silences(audio, length=32):
  """Counts runs of zeros: a hum has none."""
  is_zero = np.convolve(np.abs(audio) < 1e-4, np.ones(length), "valid")
  return int((np.diff((is_zero == length).astype(int), prepend=0) == 1).sum())


def hum(seconds):
  time = np.arange(round(seconds * RATE)) / RATE
  return (0.5 * np.sin(2 * np.pi * 330 * time)).astype(np.float32)


def jittered(kind, times):
  """Stamps of packets as recorders write them."""
  rng = np.random.default_rng(0)
  steps = np.arange(len(times))
  if kind == "20 ms, corrected every seventh":
    return times[steps // 7 * 7] + steps % 7 * 0.02
  if kind == "rounded to 10 ms":
    return np.round(times, 2)
  if kind == "late by up to 80 ms":
    return np.maximum.accumulate(times + rng.uniform(0, 0.08, len(times)))
  if kind == "pairs":
    return times[steps // 2 * 2] + steps % 2 * 1e-3
  raise ValueError(kind)


@pytest.mark.parametrize(
  "kind",
  ["20 ms, corrected every seventh", "rounded to 10 ms", "late by up to 80 ms",
   "pairs"],
)  # fmt: skip
def test_jitter_makes_no_holes(tmp_path, kind):
  times, pieces = zip(*packets(hum(6.0)), strict=True)
  stamps = jittered(kind, np.array(times))
  write_packets(tmp_path / "a.mkv", zip(stamps, pieces, strict=True))
  audio = read(tmp_path / "a.mkv")
  assert silences(audio[: round(5.8 * 16_000)]) == 0


@pytest.mark.parametrize("drift", [5e-4, -2e-3, 5e-3, -5e-3, "varies"])
@pytest.mark.parametrize("jitter", [0.0, 0.03])
def test_slow_drift_stretches_the_sound(tmp_path, drift, jitter):
  """It stays in time, as smooth as it was: no clicks, no holes, none double."""
  events = np.arange(0.5, 12, 1.5)
  tone = 0.1 * hum(12.0)
  times, pieces = zip(*packets(tone + flash.beeps(12.0, events)), strict=True)
  own = np.array(times)
  if drift == "varies":
    true = own + 0.02 * np.sin(own)  # up to 2 % faster and slower
    moved = events + 0.02 * np.sin(events)
  else:
    true, moved = own * (1 + drift), events * (1 + drift)
  rng = np.random.default_rng(0)
  stamps = np.maximum.accumulate(true + rng.uniform(0, jitter, len(true)))
  write_packets(tmp_path / "a.mkv", zip(stamps, pieces, strict=True))
  audio = read(tmp_path / "a.mkv")[: 11 * 16_000]
  assert silences(audio) == 0
  found = flash.beep_times(np.where(np.abs(audio) > 0.3, audio, 0))
  np.testing.assert_allclose(found, moved[: len(found)], atol=0.02)
  assert len(found) >= 7
  # Between beeps there is only the hum, which a step would break: its second
  # difference is that of a sine of 330 Hz.
  limit = 0.05 * (2 * np.pi * 330 / 16_000) ** 2 * (1 + 0.15)
  for time in found[:-1]:
    quiet = audio[round((time + 0.15) * 16_000) : round((time + 1.3) * 16_000)]
    assert np.abs(np.diff(quiet, 2)).max() < limit + 5e-4


@pytest.mark.parametrize("gap", [0.03, 0.06, 0.15, 0.5])
def test_gaps_stay_gaps(tmp_path, gap):
  """Also short ones, if the sound stays late after them."""
  pieces = packets(flash.beeps(3.0, TIMES))
  moved = [(t + gap * (t > 0.5), piece) for t, piece in pieces]
  write_packets(tmp_path / "a.mkv", moved)
  found = flash.beep_times(read(tmp_path / "a.mkv"))
  expected = [t + gap * (t > 0.5) for t in TIMES]
  np.testing.assert_allclose(found, expected, atol=0.002)


def test_sound_that_changes_rate_and_layout_is_read_whole(tmp_path):
  """Each part has its own header, as in files that were joined."""
  parts = [(44_100, "mono"), (48_000, "stereo"), (22_050, "mono")]
  joined = b""
  for rate, layout in parts:
    with av.open(str(tmp_path / "part.mp3"), "w") as container:
      stream = container.add_stream("mp3", rate=rate, layout=layout)
      wave = np.tile(flash.beeps(1.0, [0.5], rate), (len(layout) // 3, 1))
      frame = av.AudioFrame.from_ndarray(wave[:1], "fltp", "mono")
      frame.sample_rate = rate
      frames = av.AudioResampler("fltp", layout, rate).resample(frame)
      container.mux([p for f in frames for p in stream.encode(f)])
      container.mux(stream.encode(None))
    joined += (tmp_path / "part.mp3").read_bytes()
  (tmp_path / "a.mp3").write_bytes(joined)
  audio = read(tmp_path / "a.mp3")
  # Each part is padded by its encoder.
  assert 3.0 <= len(audio) / 16_000 < 3.3
  starts = flash.beep_times(audio)
  np.testing.assert_allclose(starts, [0.5, 1.5, 2.5], atol=0.15)


def test_damage_in_the_middle_of_sound_is_named(tmp_path):
  with av.open(str(tmp_path / "a.mp3"), "w") as container:
    stream = container.add_stream("mp3", rate=RATE, layout="mono")
    frame = av.AudioFrame.from_ndarray(hum(3.0)[None], "fltp", "mono")
    frame.sample_rate = RATE
    container.mux([*stream.encode(frame), *stream.encode(None)])
  data = bytearray((tmp_path / "a.mp3").read_bytes())
  with av.open(str(tmp_path / "a.mp3")) as container:
    found = list(container.demux(audio=0))
  for packet in found[40:60]:
    # The header stays, so that the demuxer still finds packets.
    begin = packet.pos + 4
    data[begin : begin + packet.size - 4] = b"\xff" * (packet.size - 4)
  (tmp_path / "b.mp3").write_bytes(data)
  with pytest.raises(media.ClipError, match=r"b\.mp3: sound is damaged after"):
    read(tmp_path / "b.mp3")


def write_layout(path, layout, channels):
  """FLAC, whose channels of this layout have these samples."""
  with av.open(str(path), "w") as container:
    stream = container.add_stream("flac", rate=16_000, layout=layout)
    stream.format = "s16"
    samples = (np.stack(channels, 1).reshape(1, -1) * 32767).astype(np.int16)
    frame = av.AudioFrame.from_ndarray(samples, "s16", layout)
    frame.sample_rate = 16_000
    container.mux([*stream.encode(frame), *stream.encode(None)])


@pytest.mark.parametrize(
  ("layout", "channel", "gain"),
  [
    ("mono", 0, 1.0),
    ("stereo", 0, 0.5),
    ("3.0", 2, 0.5**0.5),
    ("quad", 2, 0.5**1.5),
    ("5.0", 2, 0.5**0.5),
    ("5.1", 0, 0.5),
    ("5.1", 2, 0.5**0.5),  # the voice: as loud as in both sides, at -3 dB
    ("5.1", 3, 0.0),  # low frequency effects
    ("5.1", 4, 0.5**1.5),
    ("7.1", 2, 0.5**0.5),
  ],
)
def test_channels_are_mixed_by_the_usual_matrix(
  tmp_path, layout, channel, gain
):
  wave = hum(1.0)[::3]
  num = av.AudioLayout(layout).nb_channels
  # A little in all, as a voice that is lost in the mix is an error.
  channels = [wave * (0.5 if i == channel else 0) for i in range(num)]
  channels[0] = channels[0] + 0.1 * hum(1.0)[: len(wave)]
  write_layout(tmp_path / "a.flac", layout, channels)
  audio = read(tmp_path / "a.flac")
  silent = [x * 0 for x in channels]
  silent[0] = 0.1 * hum(1.0)[: len(wave)]
  write_layout(tmp_path / "b.flac", layout, silent)
  difference = audio - read(tmp_path / "b.flac")
  np.testing.assert_allclose(difference, 0.5 * gain * wave, atol=2e-3)


def test_sound_in_antiphase_is_named_and_wide_stereo_is_not(tmp_path):
  wave = hum(1.0)
  soundfile.write(tmp_path / "a.wav", np.stack([wave, -wave], 1), RATE)
  with pytest.raises(media.ClipError, match="antiphase: its channels cancel"):
    read(tmp_path / "a.wav")
  other = np.roll(wave, RATE // 330 // 4)
  soundfile.write(tmp_path / "b.wav", np.stack([wave, -other], 1), RATE)
  assert np.abs(read(tmp_path / "b.wav")).max() > 0.1


@pytest.mark.parametrize("suffix", ["wav", "aiff", "caf"])
@pytest.mark.parametrize("num", [6, 8])
def test_channels_without_names_are_in_the_usual_order(tmp_path, suffix, num):
  """The centre is the third, as if it were named."""
  wave = 0.5 * hum(1.0)[::3]
  channels = np.stack([wave * (i == 2) for i in range(num)], 1)
  soundfile.write(tmp_path / f"a.{suffix}", channels, 16_000)
  audio = read(tmp_path / f"a.{suffix}")
  np.testing.assert_allclose(audio, 0.5**0.5 * wave, atol=2e-3)


def test_channels_in_another_order_are_mixed_by_their_names(tmp_path):
  wave = 0.5 * hum(1.0)[::3]
  channels = [wave * (i == 6) for i in range(8)]  # left of the centre
  write_layout(tmp_path / "a.flac", "7.1(wide)", channels)
  with av.open(str(tmp_path / "a.flac")) as container:
    names = [x.name for x in container.streams.audio[0].layout.channels]
  assert names[6] == "FLC"
  audio = read(tmp_path / "a.flac")
  np.testing.assert_allclose(audio, 0.5 * wave, atol=2e-3)


def test_one_live_channel_of_many_is_not_in_antiphase(tmp_path):
  wave = hum(1.0)[::3]
  channels = np.stack([wave * (i == 5) for i in range(64)], 1)
  soundfile.write(tmp_path / "a.wav", channels, 16_000, "FLOAT")
  np.testing.assert_allclose(read(tmp_path / "a.wav"), wave / 64, atol=1e-4)

"""Sound and pictures that leave as they came."""

import struct
from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile

from ccl_jax.data import media, muxing
from tests.data import flash

FPS, SECONDS, TIMES = 25.0, 2.0, (0.4, 1.2)


def write_sound(path, codec, rate=48_000, layout="stereo", seconds=3.0):
  """Writes beeps, louder on the left."""
  wave = flash.beeps(seconds, TIMES, rate)
  with av.open(str(path), "w") as container:
    stream = container.add_stream(codec, rate=rate, layout=layout)
    channels = np.stack([wave, 0.5 * wave])[: 1 + (layout == "stereo")]
    frame = av.AudioFrame.from_ndarray(channels, "fltp", layout)
    frame.sample_rate, frame.pts = rate, 0
    container.mux([*stream.encode(frame), *stream.encode(None)])


def film(num=50):
  lit = {round(t * FPS) + i for t in TIMES for i in range(2)}
  return np.stack([flash.picture(is_lit=i in lit) for i in range(num)])


def packets(path, kind):
  with av.open(str(path)) as container:
    stream = getattr(container.streams, kind)[0]
    return [bytes(p) for p in container.demux(stream) if p.size]


def decoded(path, kind="audio"):
  with av.open(str(path)) as container:
    frames = container.decode(**{kind: 0})
    return np.concatenate([frame.to_ndarray() for frame in frames], axis=-1)


@pytest.mark.parametrize(
  ("suffix", "codec"),
  [("mp4", "aac"), ("m4a", "aac"), ("ts", "aac"), ("mkv", "aac"),
   ("mp3", "mp3"), ("webm", "libopus"), ("ogg", "libopus"), ("mp4", "ac3")],
)  # fmt: skip
def test_sound_is_copied_up_to_the_end(tmp_path, suffix, codec):
  source = tmp_path / f"a.{suffix}"
  write_sound(source, codec)
  sound = media.read_clip(source, frames=50, streams=("audio",)).audio
  path = tmp_path / "made.mp4"
  media.write_mp4(path, film(), FPS, sound)
  pictures = packets(path, "video")
  muxing.restore_stream(path, "audio", source, SECONDS)
  assert packets(path, "video") == pictures
  for copied, packet in zip(
    packets(path, "audio"), packets(source, "audio"), strict=False
  ):
    assert packet.endswith(copied)  # In a ts file each has a header.
  clip = media.read_clip(path)
  assert len(clip.audio) == SECONDS * 16_000
  # webm rounds times to milliseconds.
  lags = [clip.audio[160 + i : 28_000 + i] for i in range(-16, 17)]
  assert max(np.corrcoef(lags, sound[160:28_000])[:-1, -1]) > 0.999
  np.testing.assert_allclose(
    flash.beep_times(clip.audio), flash.beep_times(sound), atol=0.001
  )


@pytest.mark.parametrize(
  ("suffix", "codec"), [("flac", "flac"), ("m4a", "alac")]
)
@pytest.mark.parametrize("rate", [11_025, 48_000])
def test_sound_without_losses_stays_so_and_ends_with_the_clip(
  tmp_path, suffix, codec, rate
):
  source, path = tmp_path / f"a.{suffix}", tmp_path / "made.mp4"
  write_sound(source, codec, rate)
  media.write_mp4(path, film(), FPS, np.zeros(32_000, np.float32))
  muxing.restore_stream(path, "audio", source, SECONDS)
  with av.open(str(path)) as container:
    stream = container.streams.audio[0]
    assert stream.duration * stream.time_base == SECONDS
  found, given = decoded(path), decoded(source)
  if len(given) == 2:  # the channels lie apart
    given = given.T.reshape(1, -1)
  np.testing.assert_array_equal(found, given[:, : found.shape[1]])


@pytest.mark.parametrize("codec", ["mp3", "mp2"])
def test_sound_that_changes_its_channels_and_stamps_leaves_too(tmp_path, codec):
  """The stamps of both parts meet in one; mp4 has none that are equal."""
  source, path = tmp_path / "a.mkv", tmp_path / "made.mp4"
  with av.open(str(source), "w") as container:
    stream = container.add_stream(codec, rate=48_000, layout="mono")
    for i, layout in enumerate(["mono", "stereo"]):
      encoder = av.CodecContext.create(codec, "w")
      encoder.sample_rate, encoder.layout = 48_000, layout
      encoder.format = "s16p" if codec == "mp3" else "s16"
      encoder.time_base = Fraction(1, 48_000)
      wave = flash.beeps(1.2, [0.4], 48_000)[None]
      frame = av.AudioFrame.from_ndarray(wave, "fltp", "mono")
      frame.sample_rate, frame.pts = 48_000, 0
      resampler = av.AudioResampler(
        encoder.format, layout, 48_000, frame_size=encoder.frame_size or 1152
      )
      frames = [*resampler.resample(frame), *resampler.resample(None)]
      made = [p for f in frames for p in encoder.encode(f)]
      for packet in made[: 48_000 // 1152]:
        packet.stream, packet.time_base = stream, Fraction(1, 48_000)
        # One too few, so that the first stamp is that of the last before it.
        packet.pts = packet.dts = max(packet.pts, 0) + i * 40 * 1152
        container.mux(packet)
  sound = media.read_clip(source, frames=45, streams=("audio",)).audio
  media.write_mp4(path, film(45), FPS, sound)
  muxing.restore_stream(path, "audio", source, 1.8)
  clip = media.read_clip(path)
  assert len(flash.beep_times(sound)) == 2
  np.testing.assert_allclose(
    flash.beep_times(clip.audio), flash.beep_times(sound), atol=0.03
  )


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_pcm_becomes_flac_of_its_own_rate_and_channels(tmp_path, subtype):
  wave = flash.beeps(3.0, TIMES, 44_100)
  source = tmp_path / "a.wav"
  soundfile.write(source, np.stack([wave, 0.5 * wave], 1), 44_100, subtype)
  path = tmp_path / "made.mp4"
  media.write_mp4(path, film(), FPS, np.zeros(32_000, np.float32))
  muxing.restore_stream(path, "audio", source, SECONDS)
  with av.open(str(path)) as container:
    codec = container.streams.audio[0].codec_context
    assert codec.name == "flac" and codec.sample_rate == 44_100
  found = decoded(path).reshape(-1, 2) / 2.0 ** (15 if "16" in subtype else 31)
  expected = np.stack([wave, 0.5 * wave], 1)[: round(SECONDS * 44_100)]
  np.testing.assert_allclose(found, expected, atol=1 / 32000)


def test_a_gap_in_pcm_becomes_silence(tmp_path):
  source, rate = tmp_path / "a.mkv", 16_000
  wave = np.full(rate // 2, 8000, np.int16)
  with av.open(str(source), "w") as container:
    stream = container.add_stream("pcm_s16le", rate=rate, layout="mono")
    for second in (0.0, 1.0):
      frame = av.AudioFrame.from_ndarray(wave[None], "s16", "mono")
      frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
      frame.pts = round(second * rate)
      container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
  path = tmp_path / "made.mp4"
  media.write_mp4(path, film(), FPS, np.zeros(32_000, np.float32))
  muxing.restore_stream(path, "audio", source, 1.5)
  expected = np.concatenate([wave, 0 * wave, wave])
  np.testing.assert_array_equal(decoded(path).ravel(), expected)


def write_pictures(path, codec, pixels="yuv420p", rate=25, **options):
  """Writes `film` in motion, 96 x 128; returns it."""
  images = np.stack([np.roll(x, i, 0) for i, x in enumerate(film())])
  with av.open(str(path), "w") as container:
    stream = container.add_stream(codec, rate=rate, options=options)
    stream.height, stream.width, stream.pix_fmt = 96, 128, pixels
    stream.bit_rate = 4_000_000
    for i, image in enumerate(images):
      frame = av.VideoFrame.from_ndarray(image, format="rgb24")
      frame.pts, frame.time_base = i, 1 / Fraction(rate)
      container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def restore_pictures(tmp_path, source, seconds):
  """Restores them in a small clip; returns it and the source, as decoded."""
  path, frames = tmp_path / "made.mp4", round(seconds * FPS)
  sound = flash.beeps(seconds, TIMES, 16_000)
  media.write_mp4(path, film(frames)[:, ::4, ::4], FPS, sound)
  muxing.restore_stream(path, "video", source, seconds)
  clip = media.read_clip(path, frames=frames)
  return clip.video, media.read_clip(
    source, streams=("video",), frames=frames
  ).video


def psnr(found, expected):
  error = np.square((found - expected.astype(float)) / 255).mean()
  return -10 * np.log10(max(error, 1e-10))


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "mov"])
@pytest.mark.parametrize("seconds", [SECONDS, 1.0])
def test_pictures_are_copied_up_to_the_end(tmp_path, suffix, seconds):
  source = tmp_path / f"a.{suffix}"
  write_pictures(source, "libx264", bf="0", g="10")
  found, given = restore_pictures(tmp_path, source, seconds)
  np.testing.assert_array_equal(found, given)
  copied = packets(tmp_path / "made.mp4", "video")
  assert len(copied) == seconds * FPS
  if suffix in ("mp4", "mkv", "mov"):  # the others have start codes
    assert copied == packets(source, "video")[: len(copied)]
  clip = media.read_clip(tmp_path / "made.mp4")
  assert len(clip.video) == seconds * FPS


@pytest.mark.parametrize("codec", ["libsvtav1", "libvpx-vp9", "mpeg4"])
def test_pictures_of_any_codec_of_mp4_are_copied(tmp_path, codec):
  """Some are decoded by a library that cannot encode."""
  source = tmp_path / "a.mp4"
  write_pictures(source, codec)
  found, given = restore_pictures(tmp_path, source, SECONDS)
  np.testing.assert_array_equal(found, given)


@pytest.mark.parametrize("frames", [41, 42, 43, 44, 45, 50])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_cut_among_b_frames_is_copied_or_encoded_once(
  tmp_path, suffix, frames
):
  source = tmp_path / f"a.{suffix}"
  write_pictures(source, "libx264", bf="3", b_adapt="0")
  found, given = restore_pictures(tmp_path, source, frames / FPS)
  assert found.shape == given.shape == (frames, 96, 128, 3)
  assert psnr(found, given) > 40
  assert len(media.read_clip(tmp_path / "made.mp4").video) == frames


@pytest.mark.parametrize(
  ("suffix", "codec", "pixels"),
  [("avi", "mjpeg", "yuvj420p"), ("mov", "prores_ks", "yuv422p10le"),
   ("ts", "mpeg2video", "yuv420p"), ("webm", "libvpx", "yuv420p"),
   ("avi", "mpeg4", "yuv420p"), ("avi", "libx264", "yuv420p"),
   ("mkv", "ffv1", "yuv444p"), ("gif", "gif", "rgb8")],
)  # fmt: skip
def test_pictures_in_other_formats_are_encoded_once(
  tmp_path, suffix, codec, pixels
):
  source = tmp_path / f"a.{suffix}"
  write_pictures(source, codec, pixels)
  found, given = restore_pictures(tmp_path, source, 1.0)
  assert found.shape == given.shape == (25, 96, 128, 3)
  # Half the colours of 4:2:2 and of a palette are not in 4:2:0.
  least = {"prores_ks": 27, "ffv1": 27, "gif": 20}.get(codec, 38)
  assert psnr(found, given) > least
  clip = media.read_clip(tmp_path / "made.mp4")
  assert len(clip.video) == 25 and len(clip.audio) == 16_000


@pytest.mark.parametrize("rate", [12, Fraction(24000, 1001), 60])
def test_pictures_keep_their_own_rate(tmp_path, rate):
  source = tmp_path / "a.mkv"
  write_pictures(source, "ffv1", rate=rate)
  restore_pictures(tmp_path, source, 0.8)
  with av.open(str(tmp_path / "made.mp4")) as container:
    times = [frame.time for frame in container.decode(video=0)]
  np.testing.assert_allclose(
    times, np.arange(np.ceil(0.8 * rate)) / float(rate), atol=1e-3
  )


def test_more_channels_than_flac_has_stay_mixed_to_one(tmp_path):
  source, path = tmp_path / "a.wav", tmp_path / "made.mp4"
  wave = np.tile(flash.beeps(3.0, TIMES)[:, None], 16)
  soundfile.write(source, wave, 48_000)
  sound = media.read_clip(source, frames=50, need_video=False).audio
  media.write_mp4(path, film(), FPS, sound, audio_codec="flac")
  muxing.restore_stream(path, "audio", source, SECONDS)
  np.testing.assert_allclose(media.read_clip(path).audio, sound, atol=1e-4)


def cut_by_edits(path, *spans):
  """Gives the one track of an mp4 file an edit list of these seconds."""
  data, delay = bytearray(path.read_bytes()), 1024
  edits = b"".join(
    struct.pack(
      ">IiI", round((b - a) * 1000), delay + round(a * 48_000), 1 << 16
    )
    for a, b in spans
  )
  box = struct.pack(">I4sII", 16 + len(edits), b"elst", 0, len(spans)) + edits
  box = struct.pack(">I4s", 8 + len(box), b"edts") + box
  place = data.rindex(b"edts") - 4
  (old,) = struct.unpack_from(">I", data, place)
  data[place : place + old] = box
  for name in (b"trak", b"moov"):  # which hold it, behind the data
    start = data.rindex(name) - 4
    (size,) = struct.unpack_from(">I", data, start)
    struct.pack_into(">I", data, start, size + len(box) - old)
  path.write_bytes(data)


def test_sound_that_edits_cut_out_does_not_come_back(tmp_path):
  source, path = tmp_path / "a.mp4", tmp_path / "made.mp4"
  write_sound(source, "aac")
  cut_by_edits(source, (0.2, 1.0), (1.1, 2.3))
  sound = media.read_clip(source, frames=50, streams=("audio",)).audio
  media.write_mp4(path, film(), FPS, sound)
  muxing.restore_stream(path, "audio", source, SECONDS)
  assert decoded(path).size / 2 / 48_000 == pytest.approx(SECONDS, abs=0.022)
  found = media.read_clip(path).audio
  np.testing.assert_allclose(flash.beep_times(found), [0.2, 0.9], atol=0.03)
  np.testing.assert_allclose(found, sound, atol=1e-3)

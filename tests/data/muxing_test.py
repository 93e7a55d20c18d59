"""Sound and pictures that leave as they came."""

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
   ("mp3", "mp3"), ("flac", "flac"), ("webm", "libopus"), ("ogg", "libopus"),
   ("m4a", "alac"), ("mp4", "ac3")],
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


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "mov"])
def test_pictures_are_copied_if_they_need_no_cut(tmp_path, suffix):
  source = tmp_path / f"a.{suffix}"
  sound = flash.beeps(SECONDS, TIMES, 16_000)
  with av.open(str(source), "w") as container:
    stream = container.add_stream("libx264", rate=25)
    stream.height, stream.width, stream.pix_fmt = 96, 128, "yuv420p"
    for i, image in enumerate(film()):
      frame = av.VideoFrame.from_ndarray(image, format="rgb24")
      frame.pts = i
      container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
  path = tmp_path / "made.mp4"
  media.write_mp4(path, film()[:, ::2, ::2], FPS, sound)
  muxing.restore_stream(path, "video", source, SECONDS)
  clip = media.read_clip(path)
  given = media.read_clip(source, streams=("video",)).video
  np.testing.assert_array_equal(clip.video, given)
  np.testing.assert_allclose(flash.offsets(clip), 0, atol=0.04)
  # What needs a cut stays as it was encoded.
  media.write_mp4(path, film()[:25, ::2, ::2], FPS, sound)
  before = path.read_bytes()
  muxing.restore_stream(path, "video", source, 1.0)
  assert path.read_bytes() == before

"""Reading and writing clips on one clock."""

from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile

from ccl_jax.data import media
from ccl_jax.data.synthetic.render import render_video
from ccl_jax.data.synthetic.scene import draw_scene
from tests.data import clips

RATE = 16_000


def coded_video(frames, size=(16, 16)):
  """Frame i is grey of level 10 + 8 i, so that frames can be told apart."""
  levels = 10 + 8 * np.arange(frames, dtype=np.uint8)
  return np.broadcast_to(levels[:, None, None, None], (frames, *size, 3)).copy()


def frame_numbers(video):
  return np.round((video.mean((1, 2, 3)) - 10) / 8).astype(int).tolist()


def clicks(seconds, times, rate=RATE):
  time = np.arange(round(seconds * rate)) / rate
  wave = np.zeros_like(time)
  for t in times:
    bell = np.exp(-(((time - t) * 400) ** 2))
    wave += 0.8 * bell * np.sin(2 * np.pi * 1000 * (time - t) + 0.5)
  return wave.astype(np.float32)


def lag(wave, reference):
  """Samples by which `wave` comes late."""
  return np.correlate(wave, reference, "full").argmax() - len(reference) + 1


def write_streams(path, video=None, audio=None, delay=0.0, fps=25, rate=RATE):
  """A mkv without losses whose sound starts `delay` seconds late."""
  with av.open(str(path), "w") as container:
    if video is not None:
      stream = container.add_stream("ffv1", rate=Fraction(fps))
      stream.height, stream.width = video.shape[1:3]
      stream.pix_fmt = "bgr0"
    if audio is not None:
      sound = container.add_stream("pcm_s16le", rate=rate, layout="mono")
    for i, image in enumerate(() if video is None else video):
      frame = av.VideoFrame.from_ndarray(image, format="rgb24")
      frame.pts, frame.time_base = i, 1 / Fraction(fps)
      container.mux(stream.encode(frame))
    if video is not None:
      container.mux(stream.encode(None))
    if audio is not None:
      samples = (audio * 32767).astype(np.int16)[None]
      frame = av.AudioFrame.from_ndarray(samples, "s16", "mono")
      frame.sample_rate, frame.pts = rate, round(delay * rate)
      frame.time_base = Fraction(1, rate)
      container.mux(sound.encode(frame))
      container.mux(sound.encode(None))


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_mp4_round_trip_has_no_lag_in_picture_or_sound(tmp_path, rate):
  times = (0.2, 0.61, 0.9)
  sound = clicks(1, times, rate)
  media.write_mp4(tmp_path / "a.mp4", coded_video(25), 25.0, sound, rate)
  video, audio = media.read_clip(tmp_path / "a.mp4", frames=25)
  assert video.shape == (25, 16, 16, 3)
  assert frame_numbers(video) == list(range(25))
  expected = clicks(1, times)
  assert audio.shape == expected.shape
  assert lag(audio, expected) == 0
  np.testing.assert_allclose(audio, expected, atol=0.02)


def test_a_late_start_of_the_sound_is_kept(tmp_path):
  path = tmp_path / "a.mkv"
  write_streams(path, coded_video(20), clicks(0.6, [0.1]), delay=0.2)
  _, audio = media.read_clip(path, frames=20)
  assert len(audio) == round(0.8 * RATE)
  assert lag(audio, clicks(0.8, [0.3])) == 0


@pytest.mark.parametrize(
  ("source", "target", "expected"),
  [
    (50.0, 25.0, [0, 2, 4, 6, 8]),
    (12.5, 25.0, [0, 0, 1, 1, 2]),
    (30.0, 24.0, [0, 1, 3, 4, 5]),
    (25.0, 25.0, [0, 1, 2, 3, 4]),
    (5.0, 25.0, [0, 0, 0, 0, 0]),
    (60.0, 25.0, [1, 3, 5, 8, 10]),
  ],
)
def test_a_frame_is_shown_from_half_an_output_frame_before_its_time(
  tmp_path, source, target, expected
):
  path = tmp_path / "a.mkv"
  write_streams(path, coded_video(12), fps=source)
  video, audio = media.read_clip(path, fps=target, frames=5, need_audio=False)
  assert audio is None
  assert frame_numbers(video) == expected


def test_pictures_cover_the_size_and_are_cropped_at_the_centre(tmp_path):
  wide = np.zeros((3, 16, 48, 3), np.uint8)
  wide[:, :, 16:32] = 200
  write_streams(tmp_path / "a.mkv", wide)
  arguments = {"frames": 3, "need_audio": False}
  full = media.read_clip(tmp_path / "a.mkv", **arguments).video
  np.testing.assert_array_equal(full, wide)
  square = media.read_clip(tmp_path / "a.mkv", size=(8, 8), **arguments).video
  assert square.shape == (3, 8, 8, 3)
  np.testing.assert_allclose(square[:, :, 1:-1], 200, atol=3)


def test_the_same_frames_are_the_same_bytes(tmp_path):
  """A scene of which x264 makes other bytes in one of three files."""
  written, path = set(), tmp_path / "a.mp4"
  rng = np.random.default_rng(0)
  for _ in range(16):
    # Memory that was used before is what made the difference.
    junk = [rng.bytes(n) for n in rng.integers(100, 30_000, 40)]
    del junk[::2]
    video = render_video(draw_scene(11, True, 1.96), 49, 25.0, 64)
    media.write_mp4(path, video, 25.0, crf=10)
    written.add(path.read_bytes())
  assert len(written) == 1


def test_odd_sizes_are_written_with_an_edge_more(tmp_path):
  media.write_mp4(tmp_path / "a.mp4", coded_video(3, (15, 17)), 25.0)
  video, _ = media.read_clip(tmp_path / "a.mp4", need_audio=False)
  assert video.shape == (3, 16, 18, 3)


def test_wav_round_trip_and_sound_alone(tmp_path):
  wave = clicks(0.5, [0.2])
  media.write_wav(tmp_path / "a.wav", wave)
  clip = media.read_clip(tmp_path / "a.wav", need_video=False)
  assert clip.video is None
  np.testing.assert_allclose(clip.audio, wave, atol=1e-4)
  short = media.read_clip(tmp_path / "a.wav", frames=10, need_video=False)
  np.testing.assert_array_equal(short.audio, clip.audio[: round(0.4 * RATE)])


def test_stereo_at_another_rate_becomes_mono_on_time(tmp_path):
  wave = clicks(0.5, [0.2], 48_000)
  with av.open(str(tmp_path / "a.flac"), "w") as container:
    stream = container.add_stream("flac", rate=48_000, layout="stereo")
    samples = np.stack([wave, wave], 1).reshape(1, -1) * 32767
    frame = av.AudioFrame.from_ndarray(
      samples.astype(np.int16), "s16", "stereo"
    )
    frame.sample_rate = 48_000
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
  audio = media.read_clip(tmp_path / "a.flac", need_video=False).audio
  assert lag(audio, clicks(0.5, [0.2])) == 0


@pytest.mark.parametrize("rate", [8_000, 11_025, 48_000, 96_000])
@pytest.mark.parametrize("channels", [1, 2, 6, 8, 16])
def test_sound_of_any_rate_and_channels_is_on_time(tmp_path, rate, channels):
  # Surround sound is louder than the mean of its channels.
  loudness = {6: 1 + 0.5**0.5 * 2, 8: 1 + 0.5**0.5 * 3}.get(channels, 1)
  wave = clicks(0.5, [0.2], rate)[:, None] / loudness
  wave = np.tile(wave, channels)
  soundfile.write(tmp_path / "a.wav", wave, rate, subtype="FLOAT")
  audio = media.read_clip(tmp_path / "a.wav", need_video=False).audio
  assert abs(len(audio) - 8000) < 2
  expected = clicks(0.5, [0.2])[: len(audio)]
  assert lag(audio, expected) == 0
  np.testing.assert_allclose(audio, expected, atol=0.03)


def test_both_sides_of_stereo_are_heard(tmp_path):
  wave = np.stack([clicks(0.5, [0.1]), clicks(0.5, [0.4])], 1)
  soundfile.write(tmp_path / "a.wav", wave, RATE, subtype="FLOAT")
  audio = media.read_clip(tmp_path / "a.wav", need_video=False).audio
  np.testing.assert_allclose(audio, wave.mean(1), atol=1e-4)


@pytest.mark.parametrize(
  ("wave", "expected"),
  [
    (np.zeros(4000), 0.0),
    (np.resize([1.0, -1.0], 4000), 1.0),  # clipped when it was recorded
    (np.full(4000, 1.5), 1.0),  # as decoders overshoot
    (np.r_[0.5, np.zeros(3999)], 0.5),
  ],
)
def test_silent_and_loud_sound_is_kept_in_range(tmp_path, wave, expected):
  soundfile.write(tmp_path / "a.wav", wave, RATE, subtype="FLOAT")
  audio = media.read_clip(tmp_path / "a.wav", need_video=False).audio
  np.testing.assert_allclose(audio, np.clip(wave, -1, 1), atol=1e-6)
  assert np.abs(audio).max() == np.float32(expected)


@pytest.mark.parametrize(
  ("wave", "reason"),
  [
    ([0.0, np.nan, 0.0], "sound reaches nan, expected samples in"),
    ([0.0, np.inf, 0.0], "sound reaches"),
    ([0.0, 20_000.0, 0.0], "sound reaches 2e"),
  ],
)
def test_samples_that_are_no_sound_are_an_error(tmp_path, wave, reason):
  wave = np.resize(wave, 4000)
  soundfile.write(tmp_path / "a.wav", wave, RATE, subtype="FLOAT")
  with pytest.raises(media.ClipError, match=rf"a\.wav: {reason}"):
    media.read_clip(tmp_path / "a.wav", need_video=False)


def test_one_sample_of_sound(tmp_path):
  soundfile.write(tmp_path / "a.wav", [0.5], RATE, subtype="FLOAT")
  whole = media.read_clip(tmp_path / "a.wav", need_video=False).audio
  assert whole.tolist() == [0.5]
  with pytest.raises(media.ClipError, match=r"audio is too short: 0\.00 s"):
    media.read_clip(tmp_path / "a.wav", frames=5, need_video=False)


def test_one_frame_and_odd_sizes(tmp_path):
  write_streams(tmp_path / "a.mkv", coded_video(1, (15, 17)), clicks(0.04, []))
  path = tmp_path / "a.mkv"
  video, audio = media.read_clip(path, frames=1, size=(16, 24))
  assert video.shape == (1, 16, 24, 3) and len(audio) == 640
  assert frame_numbers(video) == [0]
  assert media.read_clip(path).video.shape == (1, 15, 17, 3)
  with pytest.raises(media.ClipError, match=r"video is too short: 0\.04 s"):
    media.read_clip(path, frames=5)


def test_images_are_read_and_other_kinds_are_refused(tmp_path):
  image = coded_video(1)[0]
  frame = av.VideoFrame.from_ndarray(image, format="rgb24")
  frame.save(str(tmp_path / "a.png"))
  np.testing.assert_array_equal(media.read_image(tmp_path / "a.png"), image)
  assert media.read_image(tmp_path / "a.png", (8, 24)).shape == (8, 24, 3)
  media.write_mp4(tmp_path / "a.mp4", coded_video(2), 25.0)
  with pytest.raises(media.ClipError, match="not an image"):
    media.read_image(tmp_path / "a.mp4")
  (tmp_path / "b.png").write_text("no picture at all")
  with pytest.raises(media.ClipError, match=r"b\.png"):
    media.read_image(tmp_path / "b.png")


def write_bad(kind, path):
  video, audio = clips.clip(0)
  if kind == "silent":
    media.write_mp4(path, video, 25.0)
  elif kind == "sound only":
    media.write_mp4(path, video, 25.0, audio)
    write_streams(path.with_suffix(".mkv"), audio=audio)
    path.with_suffix(".mkv").rename(path)
  elif kind == "truncated":
    media.write_mp4(path, video, 25.0, audio)
    path.write_bytes(path.read_bytes()[:-800])
  elif kind == "short picture":
    media.write_mp4(path, video[:4], 25.0, audio)
  elif kind == "short sound":
    media.write_mp4(path, video, 25.0, audio[: len(audio) // 4])
  elif kind == "text":
    path.write_text("not a clip")


@pytest.mark.parametrize(
  ("kind", "reason"),
  [
    ("silent", "has no audio stream"),
    ("sound only", "has no video stream"),
    ("truncated", "Invalid data"),
    ("short picture", "video is too short: 0.16 s"),
    ("short sound", "audio is too short"),
    ("text", "Invalid data"),
    ("absent", "No such file"),
  ],
)
def test_a_bad_clip_is_one_error_with_its_name_and_reason(
  tmp_path, kind, reason
):
  path = tmp_path / "clip.mp4"
  write_bad(kind, path)
  with pytest.raises(media.ClipError, match=reason) as caught:
    media.read_clip(path, frames=clips.FRAMES)
  assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(("frames", "fps"), [(0, 25.0), (2, 0.0)])
def test_what_cannot_be_written_leaves_nothing(tmp_path, frames, fps):
  with pytest.raises(ValueError, match="expected some frames"):
    media.write_mp4(tmp_path / "a.mp4", coded_video(frames), fps)
  with pytest.raises(ValueError, match=r"sample rate|Invalid argument"):
    media.write_mp4(tmp_path / "a.mp4", coded_video(2), 25.0, clicks(1, []), 7)
  assert not list(tmp_path.iterdir())

"""Frames of all kinds of files get their times."""

import av
import numpy as np
import pytest

from ccl_jax.data import media
from tests.data import flash


@pytest.mark.parametrize("codec", ["wmav1", "wmav2"])
@pytest.mark.parametrize("suffix", ["wmv", "asf"])
def test_windows_media_is_read_to_its_last_sound(tmp_path, codec, suffix):
  path, wave = tmp_path / f"a.{suffix}", flash.beeps(2.0, [0.5, 1.9], 44_100)
  with av.open(str(path), "w", format="asf") as container:
    video = container.add_stream("wmv2", rate=25)
    video.height, video.width, video.pix_fmt = 96, 128, "yuv420p"
    audio = container.add_stream(codec, rate=44_100, layout="mono")
    audio.bit_rate = 128_000
    for i in range(50):
      frame = av.VideoFrame.from_ndarray(flash.picture(), format="rgb24")
      frame.pts = i
      container.mux(video.encode(frame))
    frame = av.AudioFrame.from_ndarray(wave[None], "fltp", "mono")
    frame.sample_rate, frame.pts = 44_100, 0
    container.mux([*audio.encode(frame), *audio.encode(None)])
    container.mux(video.encode(None))
  clip = media.read_clip(path)
  assert clip.video.shape == (50, 96, 128, 3)
  assert len(clip.audio) == 32_000
  found = flash.beep_times(clip.audio)
  np.testing.assert_allclose(found, [0.5, 1.9], atol=0.1)
  np.testing.assert_allclose(np.diff(found), 1.4, atol=0.005)

"""Linear codecs: shapes, causality, the fit and its errors."""

import numpy as np
import pytest

from ccl_jax.codecs import linear, mel
from tests.data import clips


@pytest.fixture(scope="module")
def videos():
  return [clips.clip(i).video for i in range(16)]


@pytest.fixture(scope="module")
def codec(videos):
  return linear.LinearVideoCodec.fit(videos, 8)


@pytest.fixture(scope="module")
def waves():
  return [clips.clip(i, frames=20).audio for i in range(16)]


def test_shapes_follow_the_causal_rule(codec, videos):
  latents = codec.encode(np.stack(videos))
  assert latents.shape == (16, 2, 2, 3, 8) and latents.dtype == np.float32
  decoded = codec.decode(latents)
  assert decoded.shape == (16, 5, 16, 24, 3) and decoded.dtype == np.uint8
  assert codec.encode(videos[0][None, :1]).shape == (1, 1, 2, 3, 8)


def test_a_stream_is_what_is_decoded_at_once(codec, videos):
  latents = codec.encode(np.stack(videos))
  pieces = list(codec.stream(latents))
  assert [piece.shape[1] for piece in pieces[:2]] == [1, 4]
  np.testing.assert_array_equal(
    np.concatenate(pieces, 1), codec.decode(latents)
  )


def test_the_first_latent_frame_sees_the_first_frame_only(codec, videos):
  changed = videos[0].copy()
  changed[1:] = 255 - changed[1:]
  one, other = codec.encode(np.stack([videos[0], changed]))
  np.testing.assert_array_equal(one[0], other[0])
  assert not np.allclose(one[1], other[1])
  first = codec.decode(codec.encode(videos[0][None, :1]))[0, 0]
  np.testing.assert_array_equal(first, codec.decode(one[None])[0, 0])


def test_latents_have_mean_0_and_deviation_1(codec, videos, waves):
  video = codec.encode(np.stack(videos))
  audio = linear.LinearAudioCodec.fit(waves, 6).encode(np.stack(waves))
  for latents in (video, audio):
    flat = latents.reshape(-1, latents.shape[-1])
    np.testing.assert_allclose(flat.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(flat.std(0), 1, atol=1e-3)


def test_a_posterior_is_its_mean(codec, videos, waves):
  audio = linear.LinearAudioCodec.fit(waves, 6)
  for each, x in ((codec, np.stack(videos)), (audio, np.stack(waves))):
    mean, logvar = each.posterior(x)
    assert logvar is None and not each.has_logvar
    np.testing.assert_array_equal(mean, each.encode(x))


def test_a_row_does_not_depend_on_the_others(codec, videos, waves):
  audio = linear.LinearAudioCodec.fit(waves, 6)
  for each, x in ((codec, np.stack(videos)), (audio, np.stack(waves))):
    whole = each.encode(x)
    np.testing.assert_array_equal(each.encode(x[3:4])[0], whole[3])


def test_more_channels_are_nearer(videos):
  errors = []
  for channels in (2, 8, 40):
    codec = linear.LinearVideoCodec.fit(videos, channels)
    decoded = codec.decode(codec.encode(np.stack(videos)))
    errors.append(np.square(decoded - np.stack(videos).astype(float)).mean())
  assert errors[0] > errors[1] > errors[2]
  assert errors[1] < 200  # 25 dB; the noise alone is 30


def test_moving_patches_come_out_better_when_they_weigh_more():
  rng = np.random.default_rng(0)
  still = rng.integers(0, 255, (6, 1, 16, 16, 3)).repeat(5, axis=1)
  moving = rng.integers(0, 255, (6, 5, 16, 8, 3))
  videos = np.concatenate([still, moving], axis=3).astype(np.uint8)

  def error_of_moving(foreground):
    codec = linear.LinearVideoCodec.fit(list(videos), 6, foreground)
    error = codec.decode(codec.encode(videos)).astype(float) - videos
    return np.square(error[:, 1:, :, 16:]).mean()

  assert error_of_moving(50.0) < error_of_moving(0.0)


def test_fitting_is_deterministic(waves):
  one, other = (linear.LinearAudioCodec.fit(waves, 6) for _ in range(2))
  for name, array in one.arrays().items():
    np.testing.assert_array_equal(array, other.arrays()[name])


def test_audio_shapes_rate_and_mel(waves):
  codec = linear.LinearAudioCodec.fit(waves, 12)
  assert (codec.rate, codec.sample_rate) == (31.25, 16_000)
  batch = np.stack(waves)
  latents = codec.encode(batch)
  assert latents.shape == (16, batch.shape[1] // 512, 12)
  decoded = codec.mel(latents)
  assert decoded.shape == (16, 2 * latents.shape[1], 80)
  original = mel.log_mel(batch)[:, : decoded.shape[1]]
  assert np.abs(decoded - original).mean() < 0.2
  assert decoded.min() >= mel.SILENCE
  sound = codec.decode(latents[:1])
  assert sound.shape == (1, 512 * latents.shape[1])


def test_wrong_sizes_are_one_clear_error(codec):
  with pytest.raises(ValueError, match=r"1 \+ 4k frames, such as 5"):
    codec.encode(np.zeros((1, 8, 16, 16, 3), np.uint8))
  with pytest.raises(ValueError, match="multiples of 8"):
    codec.encode(np.zeros((1, 5, 16, 20, 3), np.uint8))
  with pytest.raises(ValueError, match="8 channels"):
    codec.decode(np.zeros((1, 2, 2, 2, 7), np.float32))
  with pytest.raises(ValueError, match="have shapes"):
    linear.LinearAudioCodec(**codec.arrays())


def test_clips_without_variety_are_refused(videos):
  grey = [np.full((5, 16, 16, 3), 128, np.uint8)] * 3
  with pytest.raises(ValueError, match="vary in only 0 directions"):
    linear.LinearVideoCodec.fit(grey, 4)
  with pytest.raises(ValueError, match="no clips"):
    linear.LinearVideoCodec.fit([])

"""Fake learned codecs: on devices, with a variance, without weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ccl_jax.codecs import api
from ccl_jax.codecs.hashed_text import HashedText
from ccl_jax.params.sharding import ONE_DEVICE

KINDS = {
  "fake_video": "tests.data.learned:FakeVideo",
  "fake_audio": "tests.data.learned:FakeAudio",
}


class FakeVideo:
  """Means of patches in three channels; logvar is the brightness.

  Args:
    stop_after: number of calls after which it raises KeyboardInterrupt.
  """

  channels, stride, has_logvar = 3, (4, 8, 8), True

  def __init__(self, layout=ONE_DEVICE, stop_after=None):
    self.layout, self.stop_after, self.shapes = layout, stop_after, []

  def posterior(self, video):
    if len(self.shapes) == self.stop_after:
      raise KeyboardInterrupt
    x = jax.device_put(video, self.layout.rows())
    self.shapes.append(video.shape)
    mean, logvar = _pool(x)
    assert len(mean.sharding.device_set) == self.layout.batch_shards()
    return np.asarray(mean), np.asarray(logvar)

  def encode(self, video):
    return self.posterior(video)[0]

  def decode(self, latents):
    video = np.clip(255 * (latents / 4 + 0.5), 0, 255).astype(np.uint8)
    for axis, times in enumerate(self.stride, 1):
      video = video.repeat(times, axis)
    return video[:, 3:]

  def stream(self, latents):
    yield self.decode(latents)

  def settings(self):
    return {}

  def arrays(self):
    return {}


class FakeAudio:
  """The first eight samples of every 512."""

  channels, sample_rate, rate, has_logvar = 8, 16_000, 31.25, False
  has_decoder = True

  def posterior(self, wave):
    m = wave.shape[1] // 512
    return 8 * wave[:, : m * 512].reshape(len(wave), m, 512)[..., :8], None

  def encode(self, wave):
    return self.posterior(wave)[0]

  def mel(self, latents):
    return np.zeros((len(latents), 2 * latents.shape[1], 80), np.float32)

  def decode(self, latents):
    return latents.repeat(64, -1).reshape(len(latents), -1) / 8

  def settings(self):
    return {}

  def arrays(self):
    return {}


@functools.partial(jax.jit)
def _pool(video):
  x = jnp.pad(
    video.astype(jnp.float32) / 255.0,
    ((0, 0), (3, 0), *((0, 0),) * 3),
    mode="edge",
  )
  b, t, height, width, c = x.shape
  x = x.reshape(b, t // 4, 4, height // 8, 8, width // 8, 8, c)
  mean = 4 * (x.mean((2, 4, 6)) - 0.5)
  return mean, mean - 6


def make(layout=ONE_DEVICE, stop_after=None):
  return api.Codecs(
    FakeVideo(layout, stop_after), FakeAudio(), HashedText(8, 6)
  )

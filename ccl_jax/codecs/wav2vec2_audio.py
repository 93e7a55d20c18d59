"""Features of speech as audio latents, for models controlled by sound.

With 40 zeros on either side a wave of s samples has s // 320 frames, and frame
j is centred at (j + 1/2) / 50 seconds, like other codecs' latents at their
rate. Features are normalised over the channels; they cannot be decoded.
"""

import functools
from typing import NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from ccl_jax.array_types import Array, Float, PyTree
from ccl_jax.codecs import api, runner, wav2vec2
from ccl_jax.ops.norms import normalize
from ccl_jax.params import nnx_utils
from ccl_jax.params.sharding import ONE_DEVICE, Layout

_PADDING = (wav2vec2.REACH - wav2vec2.HOP) // 2
_VARIANCE_FLOOR = 1e-7  # of the wave, as in transformers


class Wav2Vec2Codec(runner.LearnedCodec):
  """(b, s) samples at 16 kHz -> (b, s // 320, channels) float32 features.

  Args:
    weights, layout: see the base class.
    channels: None reads them from `weights`.
    normalize: give the model each wave with mean 0 and variance 1, as its large
      versions and transformers' expect; fairseq's base takes it as it is.
  """

  module, config_class = wav2vec2.Wav2Vec2, wav2vec2.Wav2Vec2Config
  has_logvar, has_decoder = False, False
  sample_rate, rate = 16_000, 16_000 / wav2vec2.HOP

  def __init__(
    self,
    weights: str,
    channels: int | None = None,
    normalize: bool = True,
    layout: Layout = ONE_DEVICE,
  ):
    super().__init__(weights, layout)
    self.channels = self.config.width if channels is None else channels
    self.normalize = normalize

  def encode(self, wave: api.Wave) -> api.AudioLatents:
    """Returns the features of mono sound in [-1, 1].

    Raises:
      ValueError: sound that is too short for a frame, or not finite.
    """
    if wave.ndim != 2 or wave.shape[1] < wav2vec2.HOP:
      raise ValueError(
        f"{wave.shape=}: expected mono sound (b, s) of {wav2vec2.HOP} samples"
        " or more; pad with zeros."
      )
    if not np.isfinite(wave).all():
      raise ValueError("the sound has samples that are NaN or infinite.")
    options = dict(config=self.config, use_normalize=self.normalize)
    return runner.run_batch(
      lambda x: _encode(self.params, x, **options),
      self.layout,
      wave.astype(np.float32),
    )

  def posterior(self, wave: api.Wave) -> tuple[api.AudioLatents, None]:
    """Returns the features, which have no variance."""
    return self.encode(wave), None

  def decode(self, latents: api.AudioLatents) -> NoReturn:
    """Raises the ValueError of features that no sound can be made of."""
    raise ValueError(
      "Wav2Vec2's features of speech cannot be decoded: they are for models"
      " whose sound is given (configs/icac.py)."
    )

  mel = decode


@functools.partial(jax.jit, static_argnames=("config", "use_normalize"))
def _encode(
  params: PyTree,
  wave: Float[Array, "b s"],
  *,
  config: wav2vec2.Wav2Vec2Config,
  use_normalize: bool,
) -> Float[Array, "b m c"]:
  if use_normalize:
    mean, var = wave.mean(1, keepdims=True), wave.var(1, keepdims=True)
    wave = (wave - mean) * jax.lax.rsqrt(var + _VARIANCE_FLOOR)
  wave = jnp.pad(wave, ((0, 0), (_PADDING, _PADDING)))
  model = nnx_utils.bind(wav2vec2.Wav2Vec2, config, params)
  return normalize(model(wave))

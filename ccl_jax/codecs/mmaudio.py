"""MMAudio's audio codec: wave -> log-mel -> latents -> log-mel -> wave.

At 16 kHz it has 80 bins, 20 channels and 31.25 latents per second; at 44.1 kHz
128 bins, 40 channels and 43.07. The VAE and the vocoder (BigVGAN) run in
float32. Long sound is processed in windows (see `chunking`). For the vocoder,
the result is exactly that of one pass. The VAE attends over up to a minute, and
only longer sound is split.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Shaped

from ccl_jax.array_types import Array, Int, PyTree
from ccl_jax.codecs import api, bigvgan, converted_weights, mmaudio_vae, runner
from ccl_jax.codecs import mel as mels
from ccl_jax.codecs.chunking import map_windows
from ccl_jax.params import nnx_utils
from ccl_jax.params.sharding import ONE_DEVICE, Layout

MEL_CONFIGS = {x.sample_rate: x for x in (mels.MEL_16K, mels.MEL_44K)}
_VAE_WINDOW, _VAE_OVERLAP = 4096, 256  # frames
_LOUDEST = 100.0


class MMAudioCodec(runner.LearnedCodec):
  """(b, s) samples <-> (b, s // (2 hop), channels) float32 latents.

  Args:
    weights, layout: see the base class; the weights are the VAE's.
    vocoder: folder of BigVGAN's converted weights; "" without `decode`.
    sample_rate, channels: None reads them from `weights`.
    scale: latents are the VAE's times this; 1 in models built on the 16 kHz
      VAE, 0.417 in Kandinsky 6, which uses the other.
    window: frames that the vocoder processes at once.

  Raises:
    ValueError: a sample rate that no MMAudio has.
  """

  module = mmaudio_vae.MMAudioVAE
  config_class = mmaudio_vae.MMAudioVAEConfig
  has_logvar, has_decoder = True, True

  def __init__(
    self,
    weights: str,
    vocoder: str = "",
    sample_rate: int | None = None,
    channels: int | None = None,
    scale: float = 1.0,
    window: int = 512,
    layout: Layout = ONE_DEVICE,
  ):
    super().__init__(weights, layout)
    self.vocoder, self.scale, self.window = str(vocoder), scale, window
    if sample_rate is None:
      rates = {x.num_mels: rate for rate, x in MEL_CONFIGS.items()}
      sample_rate = rates.get(self.config.num_mels)
    if sample_rate not in MEL_CONFIGS:
      raise ValueError(
        f"{sample_rate=}: MMAudio has models for {sorted(MEL_CONFIGS)} Hz."
      )
    self.channels = self.config.channels if channels is None else channels
    self.mel_config = MEL_CONFIGS[sample_rate]
    self.sample_rate = sample_rate
    self.rate = sample_rate / (2 * self.mel_config.hop)

  @functools.cached_property
  def vocoder_config(self) -> bigvgan.BigVGANConfig:
    """Reads the vocoder's sizes; ValueError for none, or one of another mel."""
    if not self.vocoder:
      raise ValueError(
        "no vocoder: latents become a mel but no sound; give MMAudioCodec the"
        " converted weights of BigVGAN."
      )
    config = converted_weights.read_config(self.vocoder, bigvgan.BigVGANConfig)
    expected = (self.mel_config.num_mels, self.mel_config.hop)
    if (config.num_mels, config.hop) != expected:
      raise ValueError(
        f"the vocoder in {self.vocoder} takes {config.num_mels} bins every"
        f" {config.hop} samples, {self.sample_rate} Hz sound has {expected}."
      )
    return config

  @functools.cached_property
  def vocoder_params(self) -> PyTree:
    """Reads the vocoder's parameters, onto the devices."""
    return runner.read_params(
      self.vocoder, bigvgan.BigVGAN, self.vocoder_config, self.layout
    )

  def check_weights(self) -> None:
    """Raises ValueError for weights of other bins or channels."""
    found = (self.config.num_mels, self.config.channels)
    expected = (self.mel_config.num_mels, self.channels)
    if found != expected:
      raise ValueError(
        f"the VAE in {self.weights} has {found} bins and channels, expected"
        f" {expected}."
      )

  def encode(self, wave: Shaped[np.ndarray, "..."]) -> api.AudioLatents:
    """Returns the posterior's mean."""
    return self.posterior(wave)[0]

  def posterior(
    self, wave: Shaped[np.ndarray, "..."]
  ) -> tuple[api.AudioLatents, api.AudioLatents]:
    """Returns mean and log-variance of the latents, times `scale`.

    Args:
      wave: (b, s) floating, mono; clipped to [-1, 1].

    Raises:
      ValueError: several channels, integers, NaN, sound that is far beyond
        [-1, 1], or too short for one latent.
    """
    self.check(wave)
    both = map_windows(
      self._run(_encode, self.params, self.config),
      mels.log_mel(wave.astype(np.float32), self.mel_config),
      _VAE_WINDOW,
      _VAE_OVERLAP,
      down=2,
    )
    mean, logvar = np.split(both, 2, axis=-1)
    return mean * self.scale, logvar + np.float32(2 * np.log(self.scale))

  def mel(self, latents: api.AudioLatents) -> api.LogMel:
    """Returns the log-mel (t = 2 m) of latents; see `codecs.mel`.

    Raises:
      ValueError: latents of other channels.
    """
    api.check_channels(self, latents)
    return map_windows(
      self._run(_decode, self.params, self.config),
      np.asarray(latents, np.float32) / np.float32(self.scale),
      _VAE_WINDOW // 2,
      _VAE_OVERLAP // 2,
      up=2,
    )

  def decode(self, latents: api.AudioLatents) -> api.Wave:
    """Returns s = 2 hop m samples; ValueError if no vocoder fits latents."""
    return self.vocode(self.mel(latents))

  def vocode(self, log_mel: api.LogMel) -> api.Wave:
    """Returns the sound of a log-mel, s = hop t samples."""
    config = self.vocoder_config
    return map_windows(
      self._run(_vocode, self.vocoder_params, config),
      log_mel,
      self.window,
      config.reach,
      up=config.hop,
    )

  def check(self, wave: Shaped[np.ndarray, "..."]) -> None:
    """Raises ValueError unless `wave` is sound that this codec takes."""
    rate, least = self.sample_rate, self.mel_config.least_samples
    if wave.ndim != 2:
      raise ValueError(
        f"{wave.shape=}: expected mono sound (b, s); mix channels to their mean"
        " first."
      )
    if not np.issubdtype(wave.dtype, np.floating):
      raise ValueError(
        f"{wave.dtype=}: expected floating samples in [-1, 1]; divide by the"
        " integers' largest."
      )
    if wave.shape[1] < least:
      raise ValueError(
        f"{wave.shape=}: one latent takes {least} samples"
        f" ({least / rate:.3f} s); pad with zeros."
      )
    loudest = np.abs(wave).max()
    if not loudest <= _LOUDEST:  # Written so that NaN fails too.
      raise ValueError(
        f"the loudest sample is {loudest}: expected about [-1, 1], and neither"
        " NaN nor infinity."
      )

  def _run(self, program: Callable, params: PyTree, config) -> Callable:
    """Returns a compiled program as a function of numpy (window, num)."""

    def run(x: np.ndarray, num: int) -> np.ndarray:
      return runner.run_batch(
        lambda x: program(params, x, np.int32(num), config), self.layout, x
      )

    return run


@functools.partial(jax.jit, static_argnames="config")
def _encode(
  params: PyTree,
  x: Float[Array, "b t mel"],
  num: Int[Array, ""],
  config: mmaudio_vae.MMAudioVAEConfig,
) -> Float[Array, "b m c"]:
  """Returns mean and log-variance, concatenated along the channels."""
  model = nnx_utils.bind(mmaudio_vae.MMAudioVAE, config, params)
  return jnp.concatenate(model.encode(x, num), -1)


@functools.partial(jax.jit, static_argnames="config")
def _decode(
  params: PyTree,
  z: Float[Array, "b m c"],
  num: Int[Array, ""],
  config: mmaudio_vae.MMAudioVAEConfig,
) -> Float[Array, "b t mel"]:
  return nnx_utils.bind(mmaudio_vae.MMAudioVAE, config, params).decode(z, num)


@functools.partial(jax.jit, static_argnames="config")
def _vocode(
  params: PyTree,
  x: Float[Array, "b t mel"],
  num: Int[Array, ""],
  config: bigvgan.BigVGANConfig,
) -> Float[Array, "b s"]:
  return nnx_utils.bind(bigvgan.BigVGAN, config, params)(x, num)

"""MMAudio's sound codec: wave -> log-mel -> latents -> log-mel -> wave.

At 16 kHz 80 bins, 20 channels and 31.25 latents a second; at 44.1 kHz 128 bins,
40 channels and 43.07. The VAE and the vocoder (BigVGAN) run in float32. Sound
of any length goes through in pieces (see `windows`): the vocoder's together are
exactly the whole; the VAE attends over a minute at once, and only longer sound
is cut.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Shaped

from ccl_jax import nnx_utils
from ccl_jax.array_types import Array, Int, PyTree
from ccl_jax.codecs import bigvgan, converted_weights, mmaudio_vae
from ccl_jax.codecs import mel as mels
from ccl_jax.codecs.chunking import in_windows
from ccl_jax.config import to_tuples
from ccl_jax.sharding import ONE_DEVICE, Layout, put_rows

FRONT_ENDS = {x.sample_rate: x for x in (mels.MEL_16K, mels.MEL_44K)}
_VAE_WINDOW, _VAE_OVERLAP = 4096, 256  # frames
_LOUDEST = 100.0


class MMAudioCodec:
  """(b, s) samples <-> (b, s // (2 hop), channels) float32 latents.

  Args:
    weights: folder of the VAE's converted weights (`codecs.converted_weights`).
    vocoder: the same of BigVGAN; "" if nothing is to be heard.
    sample_rate, channels: None asks `weights`, which are else read at the first
      use only.
    scale: latents are the VAE's times this; 1 in what builds on the 16 kHz
      model, 0.417 in Kandinsky 6 on the other.
    window: frames that the vocoder makes sound of at once.
    layout: whose mesh, of this process's devices, rows are spread over.

  Raises:
    ValueError: a sample rate that no MMAudio has.
  """

  has_logvar = True

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
    self.weights, self.vocoder = str(weights), str(vocoder)
    self.scale, self.window, self.layout = scale, window, layout
    if sample_rate is None:
      rates = {x.num_mels: rate for rate, x in FRONT_ENDS.items()}
      sample_rate = rates.get(self.sizes.num_mels)
    if sample_rate not in FRONT_ENDS:
      raise ValueError(
        f"{sample_rate=}: MMAudio has models for {sorted(FRONT_ENDS)} Hz."
      )
    self.channels = self.sizes.channels if channels is None else channels
    self.front_end = FRONT_ENDS[sample_rate]
    self.sample_rate = sample_rate
    self.rate = sample_rate / (2 * self.front_end.hop)

  def settings(self) -> dict[str, int | float | str]:
    """With no arrays, the constructor's arguments."""
    names = (
      "weights", "vocoder", "sample_rate", "channels", "scale", "window",
    )  # fmt: skip
    return {name: getattr(self, name) for name in names}

  def arrays(self) -> dict[str, np.ndarray]:
    return {}

  @functools.cached_property
  def sizes(self) -> mmaudio_vae.Settings:
    """The VAE's sizes."""
    about = converted_weights.about(self.weights)
    return mmaudio_vae.Settings(**to_tuples(about["settings"]))

  @functools.cached_property
  def vocoder_sizes(self) -> bigvgan.Settings:
    """Raises ValueError without a vocoder, or with that of another rate."""
    if not self.vocoder:
      raise ValueError(
        "no vocoder: latents become a mel but no sound; give MMAudioCodec the"
        " converted weights of BigVGAN."
      )
    sizes = to_tuples(converted_weights.about(self.vocoder)["settings"])
    sizes = bigvgan.Settings(**sizes)
    expected = (self.front_end.num_mels, self.front_end.hop)
    if (sizes.num_mels, sizes.hop) != expected:
      raise ValueError(
        f"the vocoder in {self.vocoder} takes {sizes.num_mels} bins every"
        f" {sizes.hop} samples, {self.sample_rate} Hz sound has {expected}."
      )
    return sizes

  @functools.cached_property
  def params(self) -> PyTree:
    """The VAE's parameters, on the devices.

    Raises:
      ValueError: those of another model than the settings say.
    """
    sizes = (self.sizes.num_mels, self.sizes.channels)
    if sizes != (self.front_end.num_mels, self.channels):
      raise ValueError(
        f"the VAE in {self.weights} has {sizes} bins and channels, expected"
        f" {(self.front_end.num_mels, self.channels)}."
      )
    return self._read(self.weights, mmaudio_vae.MMAudioVAE, self.sizes)

  @functools.cached_property
  def vocoder_params(self) -> PyTree:
    """The vocoder's parameters, on the devices."""
    return self._read(self.vocoder, bigvgan.BigVGAN, self.vocoder_sizes)

  def encode(
    self, wave: Shaped[np.ndarray, "..."], sample_rate: int | None = None
  ) -> Float[np.ndarray, "b m c"]:
    """The posterior's mean."""
    return self.posterior(wave, sample_rate)[0]

  def posterior(
    self, wave: Shaped[np.ndarray, "..."], sample_rate: int | None = None
  ) -> tuple[Float[np.ndarray, "b m c"], Float[np.ndarray, "b m c"]]:
    """Mean and log-variance of the latents, times `scale`.

    Args:
      wave: (b, s) floating, mono; beyond [-1, 1] it is clipped.
      sample_rate: of the wave, checked if given.

    Raises:
      ValueError: another rate, several channels, integers, NaN, sound that is
        far beyond [-1, 1], or too little for one latent.
    """
    self.check(wave, sample_rate)
    both = in_windows(
      lambda x, num: self._on_mesh(_encode, self.params, self.sizes, x, num),
      mels.log_mel(wave.astype(np.float32), self.front_end),
      _VAE_WINDOW,
      _VAE_OVERLAP,
      down=2,
    )
    mean, logvar = np.split(both, 2, axis=-1)
    return mean * self.scale, logvar + np.float32(2 * np.log(self.scale))

  def mel(
    self, latents: Float[np.ndarray, "b m c"]
  ) -> Float[np.ndarray, "b t mels"]:
    """The log-mel (t = 2 m) that `latents` stand for; see `codecs.mel`.

    Raises:
      ValueError: latents of other channels.
    """
    if latents.shape[-1] != self.channels:
      raise ValueError(
        f"{latents.shape=}: this codec has {self.channels} channels."
      )
    return in_windows(
      lambda x, num: self._on_mesh(_decode, self.params, self.sizes, x, num),
      np.asarray(latents, np.float32) / np.float32(self.scale),
      _VAE_WINDOW // 2,
      _VAE_OVERLAP // 2,
      up=2,
    )

  def decode(
    self, latents: Float[np.ndarray, "b m c"]
  ) -> Float[np.ndarray, "b s"]:
    """s = 2 hop m samples.

    Raises:
      ValueError: no vocoder, or latents of other channels.
    """
    return self.vocode(self.mel(latents))

  def vocode(
    self, log_mel: Float[np.ndarray, "b t mels"]
  ) -> Float[np.ndarray, "b s"]:
    """The sound of a log-mel, s = hop t samples."""
    sizes = self.vocoder_sizes
    wave = in_windows(
      lambda x, num: self._on_mesh(_vocode, self.vocoder_params, sizes, x, num),
      log_mel,
      self.window,
      sizes.reach,
      up=sizes.hop,
    )
    return wave[..., 0]

  def check(
    self, wave: Shaped[np.ndarray, "..."], sample_rate: int | None = None
  ) -> None:
    """Raises ValueError unless it is sound that this codec takes."""
    rate, least = self.sample_rate, self.front_end.least_samples
    if sample_rate not in (None, rate):
      raise ValueError(
        f"{sample_rate=}: this codec takes {rate} Hz; resample first, as"
        " data.media does when it reads a file."
      )
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
    if not loudest <= _LOUDEST:
      raise ValueError(
        f"the loudest sample is {loudest}: expected about [-1, 1], and neither"
        " NaN nor infinity."
      )

  def _read(self, path: str, make: nnx_utils.Make, sizes) -> PyTree:
    shapes = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(
        x.shape, x.dtype, sharding=self.layout.sharding()
      ),
      nnx_utils.param_shapes(make, sizes),
    )
    return converted_weights.read(path, shapes)

  def _on_mesh(self, run, params, sizes, x: np.ndarray, num: int) -> np.ndarray:
    """`run`; rows that the mesh does not divide are filled up."""
    count, shards = len(x), self.layout.batch_shards()
    x = np.concatenate([x, np.repeat(x[-1:], -count % shards, axis=0)])
    x = put_rows(self.layout, len(x), range(len(x)), x)
    return np.asarray(run(params, x, np.int32(num), sizes))[:count]


@functools.partial(jax.jit, static_argnames="sizes")
def _encode(
  params: PyTree,
  x: Float[Array, "b t mel"],
  num: Int[Array, ""],
  sizes: mmaudio_vae.Settings,
) -> Float[Array, "b m c"]:
  """Mean and log-variance, one behind the other."""
  model = nnx_utils.bind(mmaudio_vae.MMAudioVAE, sizes, params)
  return jnp.concatenate(model.encode(x, num), -1)


@functools.partial(jax.jit, static_argnames="sizes")
def _decode(
  params: PyTree,
  z: Float[Array, "b m c"],
  num: Int[Array, ""],
  sizes: mmaudio_vae.Settings,
) -> Float[Array, "b t mel"]:
  return nnx_utils.bind(mmaudio_vae.MMAudioVAE, sizes, params).decode(z, num)


@functools.partial(jax.jit, static_argnames="sizes")
def _vocode(
  params: PyTree,
  x: Float[Array, "b t mel"],
  num: Int[Array, ""],
  sizes: bigvgan.Settings,
) -> Float[Array, "b s 1"]:
  return nnx_utils.bind(bigvgan.BigVGAN, sizes, params)(x, num)[..., None]

"""Codecs that are one matrix each: principal components of small patches.

  z = (x - mean) B / scale          x' = mean + (z * scale) B'             (1)

B holds the leading eigenvectors of the covariance of x; mean and scale give
every channel mean 0 and deviation 1 over the clips that were fitted. They have
the shapes of the learned codecs (Wan's causal 4 x 8 x 8 video latents, 31.25
audio latents a second), need no weights to download, fit in seconds and are
deterministic.

Video: x is a patch of 4 frames x 8 x 8 pixels x RGB. Like a causal codec,
1 + 4k frames give 1 + k latent frames: the first frame is repeated three times
in front, and decoding drops those three. Audio: x is two frames of log-mel.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import scipy.linalg
from einops import rearrange
from jaxtyping import Float, Real, UInt8

from ccl_jax.codecs import mel as mels

_STRIDE = (4, 8, 8)
_PATCH = 4 * 8 * 8 * 3
# A patch that moves by this share of the brightness range counts as moving.
_MOTION = 0.05


@dataclasses.dataclass(frozen=True, eq=False)
class LinearVideoCodec:
  """(b, 1 + 4k, 8h, 8w, 3) bytes <-> (b, 1 + k, h, w, channels) float32."""

  mean: Float[np.ndarray, " d"]
  basis: Float[np.ndarray, "d c"]
  scale: Float[np.ndarray, " c"]

  stride = _STRIDE
  has_logvar = False

  def __post_init__(self):
    _check_projection(self, _PATCH)

  @property
  def channels(self) -> int:
    return len(self.scale)

  @classmethod
  def fit(
    cls,
    clips: Sequence[UInt8[np.ndarray, "t y x 3"]],
    channels: int = 16,
    foreground: float = 20.0,
  ) -> "LinearVideoCodec":
    """Fits (1); a moving patch counts 1 + `foreground` times a still one.

    Without the weight a still background, most of the pixels, would take the
    channels that lips and hands need.
    """

    def patches(clip):
      x = _patches(clip[None]).reshape(-1, _PATCH)
      change = np.ptp(x.reshape(len(x), _STRIDE[0], -1), axis=1).mean(1)
      return x, 1 + foreground * np.minimum(1, change / _MOTION)

    return cls(*_fit(clips, patches, channels))

  def latent_frames(self, frames: int) -> int:
    """f for `frames` pixel frames; a ValueError unless they are 1 + 4k."""
    if frames < 1 or frames % _STRIDE[0] != 1:
      raise ValueError(
        f"{frames=}: expected 1 + 4k frames, such as"
        f" {frames - (frames - 1) % _STRIDE[0]}."
      )
    return 1 + frames // _STRIDE[0]

  def encode(
    self, video: Real[np.ndarray, "b t y x 3"]
  ) -> Float[np.ndarray, "b f h w c"]:
    self.latent_frames(video.shape[1])
    if video.shape[2] % _STRIDE[1] or video.shape[3] % _STRIDE[2]:
      raise ValueError(
        f"{video.shape=}: height and width must be multiples of 8."
      )
    return _project(self, _patches(video))

  def posterior(
    self, video: Real[np.ndarray, "b t y x 3"]
  ) -> tuple[Float[np.ndarray, "b f h w c"], None]:
    """Its mean, without a variance."""
    return self.encode(video), None

  def decode(
    self, latents: Float[np.ndarray, "b f h w c"]
  ) -> UInt8[np.ndarray, "b t y x 3"]:
    return self._pixels(latents)[:, _STRIDE[0] - 1 :]

  def stream(
    self, latents: Float[np.ndarray, "b f h w c"]
  ) -> Iterator[UInt8[np.ndarray, "b t y x 3"]]:
    """What `decode` gives, a latent frame at a time."""
    for i in range(latents.shape[1]):
      video = self._pixels(latents[:, i : i + 1])
      yield video if i else video[:, _STRIDE[0] - 1 :]

  def _pixels(self, latents):
    """(b, 4f, y, x, 3) bytes, of which three before the first are filling."""
    _check_channels(self, latents)
    frames, rows, columns = _STRIDE
    video = rearrange(
      _unproject(self, latents),
      "b f h w (t y x rgb) -> b (f t) (h y) (w x) rgb",
      t=frames,
      y=rows,
      x=columns,
    )
    return np.round(255 * np.clip(video, 0, 1)).astype(np.uint8)

  def arrays(self) -> dict[str, np.ndarray]:
    """What `save` keeps; with `settings`, the constructor's arguments."""
    return dataclasses.asdict(self)

  def settings(self) -> dict[str, int]:
    return {}


@dataclasses.dataclass(frozen=True, eq=False)
class LinearAudioCodec:
  """(b, s) samples <-> (b, s // 512, channels) float32."""

  mean: Float[np.ndarray, " d"]
  basis: Float[np.ndarray, "d c"]
  scale: Float[np.ndarray, " c"]

  sample_rate = mels.SAMPLE_RATE
  rate = mels.SAMPLE_RATE / (2 * mels.HOP)
  has_logvar = False

  def __post_init__(self):
    _check_projection(self, 2 * mels.NUM_MELS)

  @property
  def channels(self) -> int:
    return len(self.scale)

  @classmethod
  def fit(
    cls, waves: Sequence[Float[np.ndarray, " s"]], channels: int = 20
  ) -> "LinearAudioCodec":
    def pairs(wave):
      x = _mel_pairs(wave[None])[0]
      return x, np.ones(len(x), np.float32)

    return cls(*_fit(waves, pairs, channels))

  def encode(
    self, wave: Float[np.ndarray, "b s"]
  ) -> Float[np.ndarray, "b m c"]:
    return _project(self, _mel_pairs(wave))

  def posterior(
    self, wave: Float[np.ndarray, "b s"]
  ) -> tuple[Float[np.ndarray, "b m c"], None]:
    """Its mean, without a variance."""
    return self.encode(wave), None

  def mel(
    self, latents: Float[np.ndarray, "b m c"]
  ) -> Float[np.ndarray, "b t 80"]:
    """The log-mel (t = 2 m) that `latents` stand for; see `codecs.mel`."""
    _check_channels(self, latents)
    mel = rearrange(
      _unproject(self, latents), "b m (t mel) -> b (m t) mel", t=2
    )
    return np.maximum(mel, mels.SILENCE)

  def decode(
    self, latents: Float[np.ndarray, "b m c"]
  ) -> Float[np.ndarray, "b s"]:
    """s = 512 m samples, by Griffin-Lim."""
    return mels.griffin_lim(self.mel(latents))

  def arrays(self) -> dict[str, np.ndarray]:
    return dataclasses.asdict(self)

  def settings(self) -> dict[str, int]:
    return {}


def _patches(
  video: Real[np.ndarray, "b t y x 3"],
) -> Float[np.ndarray, "b f h w 768"]:
  """Values in [0, 1]; the first frame comes four times."""
  video = np.concatenate([video[:, :1]] * (_STRIDE[0] - 1) + [video], axis=1)
  patches = rearrange(
    video,
    "b (f t) (h y) (w x) rgb -> b f h w (t y x rgb)",
    t=_STRIDE[0],
    y=_STRIDE[1],
    x=_STRIDE[2],
  )
  return patches.astype(np.float32) / 255


def _mel_pairs(wave: Float[np.ndarray, "b s"]) -> Float[np.ndarray, "b m 160"]:
  mel = mels.log_mel(wave)
  mel = mel[:, : mel.shape[1] // 2 * 2]
  return rearrange(mel, "b (m t) mel -> b m (t mel)", t=2)


def _project(codec, x):
  return (x - codec.mean) @ codec.basis / codec.scale


def _unproject(codec, z):
  return codec.mean + (z * codec.scale) @ codec.basis.T


def _fit(
  clips: Sequence,
  vectors: Callable[..., tuple[np.ndarray, np.ndarray]],
  channels: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """(mean, basis, scale) of (1) for the vectors and weights of every clip."""
  if not len(clips):
    raise ValueError("A codec cannot be fitted on no clips.")
  total, first, second = 0.0, 0.0, 0.0
  for clip in clips:
    x, weight = vectors(clip)
    total += weight.sum()
    first += weight @ x
    # A matrix times its own transpose costs BLAS half of a general product.
    weighted = x * np.sqrt(weight, dtype=np.float32)[:, None]
    second += (weighted.T @ weighted).astype(np.float64)
  mean = first / total
  covariance = second / total - np.outer(mean, mean)
  # Only the largest: several times faster than numpy's full decomposition.
  last = len(mean) - 1
  first_kept = max(len(mean) - channels, 0)
  _, basis = scipy.linalg.eigh(covariance, subset_by_index=(first_kept, last))
  basis = basis[:, ::-1]
  # An eigenvector's sign is arbitrary: its largest entry is made positive.
  largest = np.abs(basis).argmax(0)
  basis *= np.sign(basis[largest, np.arange(basis.shape[1])])
  # Every vector counts once here, so that latents are N(0, 1)-like as they are.
  latents = [(vectors(clip)[0] - mean) @ basis for clip in clips]
  latents = np.concatenate(latents)
  scale = latents.std(0)
  flat = np.flatnonzero(scale < 1e-4)
  if flat.size or len(scale) < channels:
    raise ValueError(
      f"{channels} channels asked for, but the {len(clips)} clips vary in only"
      f" {len(scale) - flat.size} directions: fit on more varied clips or ask"
      " for fewer channels."
    )
  mean = mean + basis @ latents.mean(0)
  return tuple(a.astype(np.float32) for a in (mean, basis, scale))


def _check_projection(codec, size: int) -> None:
  shapes = (codec.mean.shape, codec.basis.shape, codec.scale.shape)
  channels = codec.scale.size
  if shapes != ((size,), (size, channels), (channels,)):
    raise ValueError(
      f"mean, basis and scale have shapes {shapes}, expected"
      f" ({size},), ({size}, channels), (channels,)."
    )


def _check_channels(codec, latents) -> None:
  if latents.shape[-1] != codec.channels:
    raise ValueError(
      f"{latents.shape=}: this codec has {codec.channels} channels."
    )

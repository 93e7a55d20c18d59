"""Linear codecs: principal components (PCA) of small patches.

  z = (x - mean) B / scale          x' = mean + (z * scale) B'             (1)

B holds the leading eigenvectors of the covariance of x; mean and scale give
every channel mean 0 and deviation 1 over the clips of the fit. The shapes are
those of the learned codecs (Wan's causal 4 x 8 x 8 video latents, 31.25 audio
latents per second). No weights are needed; fitting is deterministic and takes
seconds.

Video: x is a patch of 4 frames x 8 x 8 pixels x RGB. Like a causal codec,
1 + 4k frames give 1 + k latent frames: three copies of the first frame are put
before it, and decoding drops them. Audio: x is two frames of log-mel.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import scipy.linalg
from einops import rearrange
from jaxtyping import Float, UInt8

from ccl_jax.codecs import api
from ccl_jax.codecs import mel as mels

PATCH = {"t": 4, "y": 8, "x": 8}  # its frames, rows and columns


@dataclasses.dataclass(frozen=True, eq=False)
class _LinearCodec:
  """Eq. 1 on vectors of `size` numbers.

  Raises:
    ValueError: arrays of other shapes.
  """

  mean: Float[np.ndarray, " d"]
  basis: Float[np.ndarray, "d c"]
  scale: Float[np.ndarray, " c"]

  has_logvar, has_decoder = False, True

  def __post_init__(self):
    shapes = (self.mean.shape, self.basis.shape, self.scale.shape)
    size, channels = self.size, self.scale.size
    if shapes != ((size,), (size, channels), (channels,)):
      raise ValueError(
        f"mean, basis and scale have shapes {shapes}, expected"
        f" ({size},), ({size}, channels), (channels,)."
      )

  @property
  def channels(self) -> int:
    return len(self.scale)

  def posterior(self, x: np.ndarray) -> tuple[Float[np.ndarray, "b ..."], None]:
    """Returns `encode` as the mean, without a variance."""
    return self.encode(x), None

  def arrays(self) -> dict[str, np.ndarray]:
    """Returns the constructor's arguments."""
    return dataclasses.asdict(self)

  def settings(self) -> dict[str, int]:
    return {}

  def project(self, x: Float[np.ndarray, "*b d"]) -> np.ndarray:
    """Returns z of (1)."""
    return (x - self.mean) @ self.basis / self.scale

  def unproject(self, z: Float[np.ndarray, "*b c"]) -> np.ndarray:
    """Returns x' of (1)."""
    api.check_channels(self, z)
    return self.mean + (z * self.scale) @ self.basis.T


class LinearVideoCodec(_LinearCodec):
  """(b, 1 + 4k, 8h, 8w, 3) bytes <-> (b, 1 + k, h, w, channels) float32."""

  stride = tuple(PATCH.values())
  size = 3 * math.prod(stride)

  @classmethod
  def fit(
    cls,
    clips: Sequence[UInt8[np.ndarray, "_ _ _ 3"]],
    channels: int = 16,
    foreground: float = 400.0,
  ) -> "LinearVideoCodec":
    """Returns the fitted codec.

    Args:
      foreground: a patch has weight 1 + `foreground` times its mean change in
        [0, 1]. Otherwise a still background, which is most of the pixels, would
        take the channels that lips and hands need.
    """

    def patches(clip):
      x = video_patches(clip[None]).reshape(-1, cls.size)
      change = np.ptp(x.reshape(len(x), cls.stride[0], -1), axis=1).mean(1)
      return x, 1 + foreground * change

    return cls(*_fit(clips, patches, channels))

  def encode(self, video: api.Pixels) -> api.VideoLatents:
    api.check_video(self, video)
    return self.project(video_patches(video))

  def decode(self, latents: api.VideoLatents) -> api.Video:
    return np.concatenate(list(self.stream(latents)), axis=1)

  def stream(self, latents: api.VideoLatents) -> Iterator[api.Video]:
    """Yields the video of `decode`, one latent frame at a time."""
    for i in range(latents.shape[1]):
      video = join_patches(self.unproject(latents[:, i : i + 1]))
      yield video if i else video[:, self.stride[0] - 1 :]


class LinearAudioCodec(_LinearCodec):
  """(b, s) samples <-> (b, s // 512, channels) float32."""

  sample_rate = mels.SAMPLE_RATE
  rate = mels.SAMPLE_RATE / (2 * mels.HOP)
  size = 2 * mels.NUM_MELS

  @classmethod
  def fit(
    cls, waves: Sequence[Float[np.ndarray, " _"]], channels: int = 20
  ) -> "LinearAudioCodec":
    """Returns the fitted codec."""

    def pairs(wave):
      x = mel_pairs(wave[None])[0]
      return x, np.ones(len(x), np.float32)

    return cls(*_fit(waves, pairs, channels))

  def encode(self, wave: api.Wave) -> api.AudioLatents:
    return self.project(mel_pairs(wave))

  def mel(self, latents: api.AudioLatents) -> api.LogMel:
    """Returns the log-mel (t = 2 m) of latents, nowhere below silence."""
    pairs = self.unproject(latents)
    mel = rearrange(pairs, "b m (t mel) -> b (m t) mel", t=2)
    return np.maximum(mel, mels.SILENCE)

  def decode(self, latents: api.AudioLatents) -> api.Wave:
    """Returns s = 512 m samples, by Griffin-Lim."""
    return mels.griffin_lim(self.mel(latents))


def video_patches(video: api.Pixels) -> Float[np.ndarray, "b f h w 768"]:
  """Returns patches in [0, 1], after three copies of the first frame."""
  padding = [video[:, :1]] * (PATCH["t"] - 1)
  return split_patches(np.concatenate([*padding, video], axis=1))


def split_patches(video: api.Pixels) -> Float[np.ndarray, "b f h w 768"]:
  """Returns patches in [0, 1] of 4 f frames."""
  pattern = "b (f t) (h y) (w x) rgb -> b f h w (t y x rgb)"
  return rearrange(video, pattern, **PATCH).astype(np.float32) / 255


def join_patches(patches: Float[np.ndarray, "b f h w 768"]) -> api.Video:
  """Returns the 4 f frames that `split_patches` has split."""
  pattern = "b f h w (t y x rgb) -> b (f t) (h y) (w x) rgb"
  video = np.clip(rearrange(patches, pattern, **PATCH), 0, 1)
  return np.round(255 * video).astype(np.uint8)


def mel_pairs(wave: api.Wave) -> Float[np.ndarray, "b m 160"]:
  """Returns the log-mel of waves, two frames in one vector."""
  mel = mels.log_mel(wave)
  mel = mel[:, : mel.shape[1] // 2 * 2]
  return rearrange(mel, "b (m t) mel -> b m (t mel)", t=2)


def _fit(
  clips: Sequence,
  vectors: Callable[..., tuple[np.ndarray, np.ndarray]],
  channels: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns (mean, basis, scale) of (1).

  Args:
    vectors: clip -> (x, weight of each row).
  """
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
  # Here without weights, so that latents have mean 0 and deviation 1.
  latents = [(vectors(clip)[0] - mean) @ basis for clip in clips]
  latents = np.concatenate(latents)
  scale = latents.std(0)
  flat = np.flatnonzero(scale < 1e-4)
  if flat.size or len(scale) < channels:
    raise ValueError(
      f"expected {channels} channels, but the {len(clips)} clips vary in only"
      f" {len(scale) - flat.size} directions: fit on more varied clips, or use"
      " fewer channels."
    )
  mean = mean + basis @ latents.mean(0)
  return tuple(a.astype(np.float32) for a in (mean, basis, scale))

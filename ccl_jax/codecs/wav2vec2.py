"""Wav2Vec2: a wave at 16 kHz -> features of speech (arXiv 2006.11477).

Convolutions of strides 5, 2, 2, 2, 2, 2, 2 without padding make a frame for
every 320 samples, which depends on 400: frame j is centred at 320 j + 200.
Then, with c their result and p a grouped convolution over 128 frames, which
encodes positions,

    x_0 = W norm(c) + gelu(p(W norm(c)))                                  (1)
    y = norm(x + attend(x)),  x <- norm(y + MLP(y))                       (2)

In the large models that normalise early (`is_pre_norm`, transformers' "stable"
layer norm) the blocks are x + attend(norm(x)) and x + MLP(norm(x)) instead, and
the norm before the blocks comes after them. There every convolution has a bias
and a norm over channels; in the other models only the first convolution has a
norm, of each channel over time. Every gelu uses erf, and all is float32.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from ccl_jax.array_types import Array, Float
from ccl_jax.codecs.encoder_block import Block
from ccl_jax.ops.norms import LayerNorm, expand_like
from ccl_jax.params import nnx_utils
from ccl_jax.params.sharding import ONE_DEVICE, Layout

KERNELS = (10, 3, 3, 3, 3, 2, 2)
STRIDES = (5, 2, 2, 2, 2, 2, 2)
HOP, REACH = 320, 400  # samples: between frames, and seen by one
EPSILON = 1e-5
_HIGHEST = jax.lax.Precision.HIGHEST


@dataclasses.dataclass(frozen=True)
class Wav2Vec2Config:
  """Sizes; by default wav2vec2-base's.

  Attributes:
    is_pre_norm: normalise before attention and MLP, and each convolution.
    channels: of the convolutions.
    positions, groups: frames and groups of the convolution of positions.

  Raises:
    ValueError: sizes that do not divide.
  """

  width: int = 768
  ffn: int = 3072
  heads: int = 12
  layers: int = 12
  is_pre_norm: bool = False
  channels: int = 512
  positions: int = 128
  groups: int = 16

  def __post_init__(self):
    if self.width % self.heads or self.width % self.groups:
      raise ValueError(
        f"{self}: expected a width that {self.heads} heads and {self.groups}"
        " groups divide."
      )


BASE = Wav2Vec2Config()
LARGE = Wav2Vec2Config(width=1024, ffn=4096, heads=16, layers=24)
LARGE_PRE_NORM = dataclasses.replace(LARGE, is_pre_norm=True)


class ChannelNorm(nnx.Module):
  """Normalises each channel over time (GroupNorm, a channel in each group)."""

  def __init__(self, d: int):
    self.scale = nnx.Param(jnp.ones(d))
    self.bias = nnx.Param(jnp.zeros(d))

  def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
    mean, var = x.mean(1, keepdims=True), x.var(1, keepdims=True)
    scale, bias = (expand_like(p[...], x) for p in (self.scale, self.bias))
    return (x - mean) * jax.lax.rsqrt(var + EPSILON) * scale + bias


class Features(nnx.Module):
  """The convolutions, wave (b, s) -> (b, t, channels)."""

  def __init__(self, config: Wav2Vec2Config, rngs: nnx.Rngs):
    sizes = [1] + [config.channels] * len(KERNELS)
    self.convs = nnx.List(
      nnx.Conv(
        d_in, d_out, kernel_size=(kernel,), strides=(stride,), padding="VALID",
        use_bias=config.is_pre_norm, precision=_HIGHEST, rngs=rngs,
      )
      for d_in, d_out, kernel, stride in zip(
        sizes, sizes[1:], KERNELS, STRIDES, strict=False
      )
    )  # fmt: skip
    norms = [ChannelNorm(config.channels)]
    if config.is_pre_norm:
      norms = [LayerNorm(config.channels, EPSILON) for _ in KERNELS]
    self.norms = nnx.List(norms)

  def __call__(self, wave: Float[Array, "b s"]) -> Float[Array, "b t c"]:
    x = wave[..., None]
    for i, conv in enumerate(self.convs):
      x = conv(x)
      x = self.norms[i](x) if i < len(self.norms) else x
      x = nnx.gelu(x, approximate=False)
    return x


class Wav2Vec2(nnx.Module):
  """Wave -> the last hidden state."""

  def __init__(
    self,
    config: Wav2Vec2Config,
    *,
    rngs: nnx.Rngs,
    layout: Layout = ONE_DEVICE,
  ):
    d, self.config, self.layout = config.width, config, layout
    self.features = Features(config, rngs)
    self.feature_norm = LayerNorm(config.channels, EPSILON)
    self.projection = nnx.Linear(
      config.channels, d, precision=_HIGHEST, rngs=rngs
    )
    half = config.positions // 2
    self.positions = nnx.Conv(
      d, d, kernel_size=(config.positions,), feature_group_count=config.groups,
      padding=((half, config.positions - 1 - half),), precision=_HIGHEST,
      rngs=rngs,
    )  # fmt: skip
    self.norm = LayerNorm(d, EPSILON)
    self.blocks = nnx_utils.stack(
      lambda r: Block(
        config, r, EPSILON, config.is_pre_norm, precision=_HIGHEST
      ),
      config.layers,
      rngs,
    )

  def __call__(self, wave: Float[Array, "b s"]) -> Float[Array, "b t d"]:
    x = self.projection(self.feature_norm(self.features(wave)))
    x = x + nnx.gelu(self.positions(x), approximate=False)
    if not self.config.is_pre_norm:
      x = self.norm(x)
    x = nnx_utils.scan(
      self.blocks,
      self.layout.constrain(x, "batch"),
      lambda block, x: block(x),
      layout=self.layout,
      path="blocks/",
      dtype=jnp.float32,
    )
    return self.norm(x) if self.config.is_pre_norm else x

"""The layers of Wan2.1's video autoencoder, which are causal in time.

A clip can therefore be processed in chunks. A layer that mixes frames reads the
last frames of the previous chunk from a `FeatureCache` and stores its own for
the next chunk; a clip is preceded by zeros. With frames x[t] and kernel W[k],

    conv   y[t] = sum_k W[k] x[t-2+k]                                      (1)
    down   y[0] = x[0]    y[1+j] = sum_k W[k] x[2j+k]                      (2)
    up     y[0] = x[0]    y[1+2j], y[2+2j] = sum_k W[k] x[j-1+k]           (3)

where (3) reads zeros instead of x[0]. Layers that change the frame rate
copy the clip's first frame: 1 + 4k frames are 1 + k latents.

Nearest-neighbour upsampling and a 3 x 3 convolution are one step: with S the
sums of the taps that read the same pixel, rows i and columns j of x give

    y[2i+p, 2j+q] = sum_ab S[p,q,a,b] x[i+p-1+a, j+q-1+b],  a, b in 0, 1   (4)

which is 16 products per pixel instead of 36. Arrays are (b, t, y, x, c).
Parameters have their dtype, except those of norms; norms and softmax are
computed in float32.
"""

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx

from ccl_jax.array_types import Array, Float
from ccl_jax.codecs.runner import ROWS
from ccl_jax.ops import cpu
from ccl_jax.ops.norms import expand_like
from ccl_jax.params.sharding import ONE_DEVICE, Layout

# Columns of a picture are split over these axes of the mesh.
COLUMNS = ("context", "tensor")
# Eq. 4 along one axis: S[p, a] is the sum of these of the three taps.
_SUMS = np.array([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], np.float32)

Frames = tuple[Array, ...]


class FeatureCache:
  """The last frames of every layer's input, in the order of the layers.

  Args:
    frames: `updated` of the chunk before; None at the start of a clip.
    layout: the mesh that rows and columns are split over.

  Attributes:
    updated: the frames for the next chunk, once all layers have run.
  """

  def __init__(self, frames: Frames | None, layout: Layout = ONE_DEVICE):
    self.is_start = frames is None
    self.frames = iter(frames or ())
    self.updated: Frames = ()
    self.layout = layout

  def extend(
    self, x: Float[Array, "b t y x c"], frames: int, start: Array | None = None
  ) -> Float[Array, "b s y x c"]:
    """Returns x after the `frames` frames before it, and stores its last ones.

    Args:
      start: frames before the clip; None for zeros.
    """
    if self.is_start:
      zeros = jnp.zeros_like(x, shape=(len(x), frames, *x.shape[2:]))
      before = zeros if start is None else start
    else:
      before = next(self.frames)
    x = self.shard(jnp.concatenate([before, x], 1))
    self.updated += (x[:, -frames:],)
    return x

  def split_first(self, x: Array) -> tuple[Array, Array]:
    """Returns the clip's first frame, if this chunk has it, and the others."""
    first = 1 if self.is_start else 0
    return x[:, :first], x[:, first:]

  def shard(self, x: Array) -> Array:
    """Returns x, rows and columns split; XLA exchanges the borders."""
    return self._constrain(x, ROWS, None, None, COLUMNS)

  def gather(self, x: Float[Array, "b f n c"]) -> Float[Array, "b f n c"]:
    """Returns x, all columns on every device and rows split."""
    return self._constrain(x, ROWS)

  def _constrain(self, x: Array, *spec) -> Array:
    if self.layout.mesh is None:
      return x
    return jax.lax.with_sharding_constraint(x, self.layout.sharding(*spec))


def precision(x: Array) -> jax.lax.Precision:
  """Returns full float32 precision for float32, on every platform."""
  highest, default = jax.lax.Precision.HIGHEST, jax.lax.Precision.DEFAULT
  return highest if x.dtype == jnp.float32 else default


def convolve(
  x: Float[Array, "b t y x c"],
  kernel: Float[Array, "i j k c d"],
  strides: tuple[int, int, int] = (1, 1, 1),
  pad: tuple[int, int] = (0, 0),
) -> Float[Array, "b s v u d"]:
  """Returns a 3D convolution with `pad` zeros around pictures, none in time."""
  return cpu.convolve_video(x, kernel, strides, pad, precision(x))


class Conv(nnx.Module):
  """A 3D convolution (`convolve`) and a bias."""

  def __init__(
    self, d_in: int, d_out: int, size: tuple[int, int, int], *, rngs,
    strides: tuple[int, int, int] = (1, 1, 1), pad: tuple[int, int] = (0, 0),
  ):  # fmt: skip
    init = nnx.initializers.lecun_normal()
    self.kernel = nnx.Param(init(rngs.params(), (*size, d_in, d_out)))
    self.bias = nnx.Param(jnp.zeros(d_out))
    self.strides, self.pad = strides, pad

  def __call__(self, x: Float[Array, "b t y x c"]) -> Float[Array, "b s v u d"]:
    y = convolve(x, self.kernel[...], self.strides, self.pad)
    return y + expand_like(self.bias[...], y)


def causal_conv(d_in: int, d_out: int, *, rngs) -> Conv:
  """Returns a 3 x 3 x 3 convolution (1), for inputs extended by two frames."""
  return Conv(d_in, d_out, (3, 3, 3), pad=(1, 1), rngs=rngs)


class Linear(nnx.Module):
  """x @ kernel + bias."""

  def __init__(self, d_in: int, d_out: int, *, rngs):
    init = nnx.initializers.lecun_normal()
    self.kernel = nnx.Param(init(rngs.params(), (d_in, d_out)))
    self.bias = nnx.Param(jnp.zeros(d_out))

  def __call__(self, x: Float[Array, " *b c"]) -> Float[Array, " *b d"]:
    y = jnp.matmul(x, self.kernel[...], precision=precision(x))
    return y + expand_like(self.bias[...], y)


class RMSNorm(nnx.Module):
  """x / rms(x) * scale over the channels; the rms is bounded from below."""

  def __init__(self, d: int):
    self.scale = nnx.Param(jnp.ones(d))

  def __call__(self, x: Float[Array, " *b d"]) -> Float[Array, " *b d"]:
    y = x.astype(jnp.float32)
    square = jnp.square(y).mean(-1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.maximum(square, 1e-24 / x.shape[-1]))
    return (y * expand_like(self.scale[...], y)).astype(x.dtype)


class ResidualBlock(nnx.Module):
  """x + conv(act(norm(conv(act(norm(x)))))), act silu."""

  def __init__(self, d_in: int, d_out: int, *, rngs):
    self.norm1, self.norm2 = RMSNorm(d_in), RMSNorm(d_out)
    self.conv1 = causal_conv(d_in, d_out, rngs=rngs)
    self.conv2 = causal_conv(d_out, d_out, rngs=rngs)
    same = d_in == d_out
    self.shortcut = None if same else Linear(d_in, d_out, rngs=rngs)

  def __call__(
    self, x: Float[Array, "b t y x c"], cache: FeatureCache
  ) -> Float[Array, "b t y x d"]:
    y = self.conv1(cache.extend(nnx.silu(self.norm1(x)), 2))
    y = self.conv2(cache.extend(nnx.silu(self.norm2(y)), 2))
    return cache.shard(y + (x if self.shortcut is None else self.shortcut(x)))


class Attention(nnx.Module):
  """x + attention of one head among the pixels of each frame."""

  def __init__(self, d: int, *, rngs):
    self.norm = RMSNorm(d)
    self.qkv = Linear(d, 3 * d, rngs=rngs)
    self.out = Linear(d, d, rngs=rngs)

  def __call__(
    self, x: Float[Array, "b f h w c"], cache: FeatureCache
  ) -> Float[Array, "b f h w c"]:
    q, k, v = jnp.split(self.qkv(self.norm(x)), 3, -1)
    # Keys and values are gathered; queries keep their columns split, which is
    # why rows and columns of x stay two axes.
    k, v = (
      cache.gather(rearrange(a, "b f h w c -> b f (h w) c")) for a in (k, v)
    )
    score = jnp.einsum(
      "bfhwc,bfnc->bfhwn", q, k, precision=precision(x),
      preferred_element_type=jnp.float32,
    )  # fmt: skip
    weight = jax.nn.softmax(score * q.shape[-1] ** -0.5, -1).astype(x.dtype)
    y = jnp.einsum("bfhwn,bfnc->bfhwc", weight, v, precision=precision(x))
    return x + self.out(y)


class Downsample(nnx.Module):
  """Halves height and width; with `time` the frames too (2)."""

  def __init__(self, d: int, time: bool, *, rngs):
    halve = dict(strides=(1, 2, 2), pad=(0, 1))
    self.space = Conv(d, d, (1, 3, 3), **halve, rngs=rngs)
    size, strides = (3, 1, 1), (2, 1, 1)
    self.time = Conv(d, d, size, strides=strides, rngs=rngs) if time else None

  def __call__(
    self, x: Float[Array, "b t y x c"], cache: FeatureCache
  ) -> Float[Array, "b f h w c"]:
    x = self.space(x)
    if self.time is None:
      return x
    first, rest = cache.split_first(x)
    rest = self.time(cache.extend(rest, 1, start=first))
    return jnp.concatenate([first, rest], 1)


class Upsample(nnx.Module):
  """Doubles height and width (4); with `time` the frames too (3)."""

  def __init__(self, d: int, time: bool, *, rngs):
    self.space = Conv(d, d // 2, (1, 3, 3), pad=(1, 1), rngs=rngs)
    self.time = Conv(d, 2 * d, (3, 1, 1), rngs=rngs) if time else None

  def __call__(
    self, x: Float[Array, "b f h w c"], cache: FeatureCache
  ) -> Float[Array, "b t y x d"]:
    if self.time is not None:
      first, rest = cache.split_first(x)
      rest = self.time(cache.extend(rest, 2))
      rest = rearrange(rest, "b f h w (two c) -> b (f two) h w c", two=2)
      x = jnp.concatenate([first, rest], 1)
    y = upsample_conv(x, self.space.kernel[0])
    return y + expand_like(self.space.bias[...], y)


def upsample_conv(
  x: Float[Array, "b t h w c"], kernel: Float[Array, "3 3 c d"]
) -> Float[Array, "b t y x d"]:
  """Returns a 3 x 3 convolution of x at twice its height and width (4)."""
  sums = jnp.einsum(
    "pai,qbj,ijcd->abcpqd", _SUMS, _SUMS, kernel.astype(jnp.float32),
    precision="highest",
  )  # fmt: skip
  # One convolution of 2 x 2 taps makes the four pixels (p, q) as channels; it
  # is padded on all sides, and each (p, q) takes its own part.
  kernel = rearrange(sums.astype(x.dtype), "a b c p q d -> 1 a b c (p q d)")
  y = jnp.split(convolve(x, kernel, pad=(1, 1)), 4, -1)
  h, w = x.shape[2:4]
  offsets = ((0, 0), (0, 1), (1, 0), (1, 1))
  y = [
    part[:, :, p : p + h, q : q + w]
    for part, (p, q) in zip(y, offsets, strict=True)
  ]
  return rearrange(y, "(p q) b t h w d -> b t (h p) (w q) d", p=2)

"""The layers of Wan2.1's video autoencoder, which only ever look back in time.

A clip may therefore be run piece by piece. A layer that mixes frames asks a
`FeatureCache` for the last frames that it saw, and leaves its own there for the next
piece; before a clip there are zeros. With x[t] frames and W[k] a kernel's,

    conv   y[t] = sum_k W[k] x[t-2+k]                                      (1)
    down   y[0] = x[0]    y[1+j] = sum_k W[k] x[2j+k]                      (2)
    up     y[0] = x[0]    y[1+2j], y[2+2j] = sum_k W[k] x[j-1+k]           (3)

where (3) takes x[0] for zeros. What changes the frame rate leaves the clip's
first frame alone: 1 + 4k frames are 1 + k latents.

Doubling a picture and a 3 x 3 convolution are one step: with S the sums of taps
that fall on the same pixel, rows i and columns j of the picture give

    y[2i+p, 2j+q] = sum_ab S[p,q,a,b] x[i+p-1+a, j+q-1+b],  a, b in 0, 1   (4)

which is 16 products a pixel and not 36. Arrays are (b, t, y, x, c), parameters
but norms' in the same dtype; norms and softmax are computed in float32.
"""

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx

from ccl_jax.array_types import Array, Float
from ccl_jax.sharding import ONE_DEVICE, Layout

# Rows of a batch, and columns of a picture, are split over these axes.
ROWS = ("data", "fsdp")
COLUMNS = ("context", "tensor")
# Eq. 4 along one axis: which of three taps p and a stand for.
_SUMS = np.array([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], np.float32)

Frames = tuple[Array, ...]


class FeatureCache:
  """What layers have seen before this piece, in the order in which they run.

  Attributes:
    seen: `kept` of the piece before; None at the start of a clip.
    kept: the last frames that each layer has now seen.
    layout: the mesh that rows and columns are split over.
  """

  def __init__(self, seen: Frames | None, layout: Layout = ONE_DEVICE):
    self.is_start = seen is None
    self.seen = iter(seen or ())
    self.kept: Frames = ()
    self.layout = layout

  def extend(
    self, x: Float[Array, "b t y x c"], frames: int, start: Array | None = None
  ) -> Float[Array, "b s y x c"]:
    """x after the `frames` before it, at the start after `start` or zeros."""
    if self.is_start:
      zeros = jnp.zeros_like(x, shape=(len(x), frames, *x.shape[2:]))
      before = zeros if start is None else start
    else:
      before = next(self.seen)
    x = self.split(jnp.concatenate([before, x], 1))
    self.kept += (x[:, -frames:],)
    return x

  def part(self, x: Array) -> tuple[Array, Array]:
    """The clip's first frame, if it is in this piece, and the others."""
    first = 1 if self.is_start else 0
    return x[:, :first], x[:, first:]

  def split(self, x: Array) -> Array:
    """Rows and columns over the mesh; XLA exchanges the borders."""
    return self._constrain(x, ROWS, None, None, COLUMNS)

  def gather(self, x: Float[Array, "b f n c"]) -> Float[Array, "b f n c"]:
    """All columns on every device, rows split."""
    return self._constrain(x, ROWS)

  def _constrain(self, x: Array, *spec) -> Array:
    if self.layout.mesh is None:
      return x
    return jax.lax.with_sharding_constraint(x, self.layout.sharding(*spec))


def precision(x: Array) -> jax.lax.Precision:
  """float32 is multiplied as such, on every platform."""
  highest, default = jax.lax.Precision.HIGHEST, jax.lax.Precision.DEFAULT
  return highest if x.dtype == jnp.float32 else default


def convolve(
  x: Float[Array, "b t y x c"],
  kernel: Float[Array, "i j k c d"],
  strides: tuple[int, int, int] = (1, 1, 1),
  pad: tuple[int, int] = (0, 0),
) -> Float[Array, "b s v u d"]:
  """Over frames as they come, and over pictures with `pad` zeros each side.

  Compiled for a CPU it is a sum of convolutions of pictures, one for each frame
  of the kernel: XLA is fast at those, and slow at three dimensions.
  """

  def whole(x, kernel):
    return jax.lax.conv_general_dilated(
      x, kernel, strides, [(0, 0), pad, pad], precision=precision(x),
      dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    )  # fmt: skip

  def by_frame(x, kernel):
    last = x.shape[1] - len(kernel)
    parts = [
      jax.lax.conv_general_dilated(
        rearrange(x[:, i : last + i + 1 : strides[0]], "b t ... -> (b t) ..."),
        frame, strides[1:], [pad, pad], precision=precision(x),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
      )
      for i, frame in enumerate(kernel)
    ]  # fmt: skip
    return rearrange(sum(parts), "(b t) ... -> b t ...", b=len(x))

  return jax.lax.platform_dependent(x, kernel, cpu=by_frame, default=whole)


class Conv(nnx.Module):
  """`convolve` and a bias."""

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
    return y + self.bias[...]


def causal(d_in: int, d_out: int, *, rngs) -> Conv:
  """3 x 3 x 3, eq. 1, for frames that are extended by two."""
  return Conv(d_in, d_out, (3, 3, 3), pad=(1, 1), rngs=rngs)


class Linear(nnx.Module):
  """x @ kernel + bias."""

  def __init__(self, d_in: int, d_out: int, *, rngs):
    init = nnx.initializers.lecun_normal()
    self.kernel = nnx.Param(init(rngs.params(), (d_in, d_out)))
    self.bias = nnx.Param(jnp.zeros(d_out))

  def __call__(self, x: Float[Array, " *b c"]) -> Float[Array, " *b d"]:
    y = jnp.matmul(x, self.kernel[...], precision=precision(x))
    return y + self.bias[...]


class Norm(nnx.Module):
  """x / rms(x) * scale over the channels."""

  def __init__(self, d: int):
    self.scale = nnx.Param(jnp.ones(d))

  def __call__(self, x: Float[Array, " *b d"]) -> Float[Array, " *b d"]:
    y = x.astype(jnp.float32)
    square = jnp.square(y).mean(-1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.maximum(square, 1e-24 / x.shape[-1]))
    return (y * self.scale[...]).astype(x.dtype)


class Residual(nnx.Module):
  """x + conv(act(norm(conv(act(norm(x)))))), act silu."""

  def __init__(self, d_in: int, d_out: int, *, rngs):
    self.norm1, self.norm2 = Norm(d_in), Norm(d_out)
    self.conv1 = causal(d_in, d_out, rngs=rngs)
    self.conv2 = causal(d_out, d_out, rngs=rngs)
    same = d_in == d_out
    self.shortcut = None if same else Linear(d_in, d_out, rngs=rngs)

  def __call__(
    self, x: Float[Array, "b t y x c"], past: FeatureCache
  ) -> Float[Array, "b t y x d"]:
    y = self.conv1(past.extend(nnx.silu(self.norm1(x)), 2))
    y = self.conv2(past.extend(nnx.silu(self.norm2(y)), 2))
    return past.split(y + (x if self.shortcut is None else self.shortcut(x)))


class Attention(nnx.Module):
  """x + attention among the pixels of each frame, one head."""

  def __init__(self, d: int, *, rngs):
    self.norm = Norm(d)
    self.qkv = Linear(d, 3 * d, rngs=rngs)
    self.out = Linear(d, d, rngs=rngs)

  def __call__(
    self, x: Float[Array, "b f h w c"], past: FeatureCache
  ) -> Float[Array, "b f h w c"]:
    q, k, v = jnp.split(self.qkv(self.norm(x)), 3, -1)
    # Queries stay where their columns are, and so keep them apart from rows.
    k, v = (
      past.gather(rearrange(a, "b f h w c -> b f (h w) c")) for a in (k, v)
    )
    score = jnp.einsum(
      "bfhwc,bfnc->bfhwn", q, k, precision=precision(x),
      preferred_element_type=jnp.float32,
    )  # fmt: skip
    weight = jax.nn.softmax(score * q.shape[-1] ** -0.5, -1).astype(x.dtype)
    y = jnp.einsum("bfhwn,bfnc->bfhwc", weight, v, precision=precision(x))
    return x + self.out(y)


class Down(nnx.Module):
  """Half the height and width; with `time` half the frames as well, eq. 2."""

  def __init__(self, d: int, time: bool, *, rngs):
    halve = dict(strides=(1, 2, 2), pad=(0, 1))
    self.space = Conv(d, d, (1, 3, 3), **halve, rngs=rngs)
    size, strides = (3, 1, 1), (2, 1, 1)
    self.time = Conv(d, d, size, strides=strides, rngs=rngs) if time else None

  def __call__(
    self, x: Float[Array, "b t y x c"], past: FeatureCache
  ) -> Float[Array, "b f h w c"]:
    x = self.space(x)
    if self.time is None:
      return x
    first, rest = past.part(x)
    rest = self.time(past.extend(rest, 1, start=first))
    return jnp.concatenate([first, rest], 1)


class Up(nnx.Module):
  """Twice the height and width, eq. 4; with `time` twice the frames, eq. 3."""

  def __init__(self, d: int, time: bool, *, rngs):
    self.space = Conv(d, d // 2, (1, 3, 3), pad=(1, 1), rngs=rngs)
    self.time = Conv(d, 2 * d, (3, 1, 1), rngs=rngs) if time else None

  def __call__(
    self, x: Float[Array, "b f h w c"], past: FeatureCache
  ) -> Float[Array, "b t y x d"]:
    if self.time is not None:
      first, rest = past.part(x)
      rest = self.time(past.extend(rest, 2))
      rest = rearrange(rest, "b f h w (two c) -> b (f two) h w c", two=2)
      x = jnp.concatenate([first, rest], 1)
    return double(x, self.space.kernel[0]) + self.space.bias[...]


def double(
  x: Float[Array, "b t h w c"], kernel: Float[Array, "3 3 c d"]
) -> Float[Array, "b t y x d"]:
  """Each pixel four times, then a 3 x 3 convolution: eq. 4."""
  sums = kernel.astype(jnp.float32)
  sums = jnp.einsum(
    "pai,qbj,ijcd->abcpqd", _SUMS, _SUMS, sums, precision="highest"
  )
  kernel = rearrange(sums.astype(x.dtype), "a b c p q d -> 1 a b c (p q d)")
  y = jnp.split(convolve(x, kernel, pad=(1, 1)), 4, -1)
  h, w = x.shape[2:4]
  places = ((0, 0), (0, 1), (1, 0), (1, 1))
  y = [
    part[:, :, p : p + h, q : q + w]
    for part, (p, q) in zip(y, places, strict=True)
  ]
  return rearrange(y, "(p q) b t h w d -> b t (h p) (w q) d", p=2)

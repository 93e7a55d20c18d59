"""Wan2.1's video autoencoder: 1 + 4k frames of pixels <-> 1 + k of latents.

    encode   x -> conv -> residuals, halved 3 times -> middle -> mean, logvar
    decode   z -> conv -> middle -> residuals, doubled 3 times -> x

The middle is residual, attention, residual. Both run over a clip in pieces:
`lax.scan` carries what the layers have seen (`wan_layers.FeatureCache`), so that memory
does not grow with the clip, and two bodies are compiled: the first piece, of
1 + (k mod chunk) latents, and the others, of `chunk` each. One piece for the
whole clip (chunk > k) gives the same numbers.

Latents that are given and returned have mean 0 and deviation about 1:

    z = (mean - m) / s     logvar' = logvar - 2 log s                      (1)

with Wan's published m and s. Pixels are in [-1, 1].
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from ccl_jax import nnx_utils, trees
from ccl_jax.array_types import Array, Float, PyTree
from ccl_jax.codecs.wan_layers import (
  Attention,
  Down,
  FeatureCache,
  Frames,
  Linear,
  Norm,
  Residual,
  Up,
  causal,
)
from ccl_jax.sharding import ONE_DEVICE, Layout


@dataclasses.dataclass(frozen=True)
class Settings:
  """Sizes of the model; the defaults are the published one's.

  Attributes:
    base: channels at full resolution, times `multipliers` at each halving.
    residuals: blocks at each resolution; one more when decoding.
    channels: of the latents.
    halves_time: whether each halving of the picture halves the frames too.
    mean, deviation: of a latent's channels, m and s of eq. 1.
  """

  base: int = 96
  multipliers: tuple[int, ...] = (1, 2, 4, 4)
  residuals: int = 2
  channels: int = 16
  halves_time: tuple[bool, ...] = (False, True, True)
  mean: tuple[float, ...] = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
  )  # fmt: skip
  deviation: tuple[float, ...] = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
  )  # fmt: skip

  def __post_init__(self):
    if len(self.halves_time) != len(self.multipliers) - 1:
      raise ValueError(
        f"{self.halves_time=}: expected one for each of the"
        f" {len(self.multipliers) - 1} halvings."
      )
    if not len(self.mean) == len(self.deviation) == self.channels:
      raise ValueError(
        f"{len(self.mean)=}, {len(self.deviation)=}: expected {self.channels=}."
      )

  @property
  def widths(self) -> tuple[int, ...]:
    """Channels at each resolution, from the pixels down."""
    return tuple(self.base * m for m in self.multipliers)

  @property
  def stride(self) -> tuple[int, int, int]:
    """Pixels to a latent in t, y and x."""
    space = 2 ** len(self.halves_time)
    return 2 ** sum(self.halves_time), space, space


PUBLISHED = Settings()


class _Coder(nnx.Module):
  """A convolution in, layers, and norm, silu and a convolution out."""

  def __init__(
    self, sizes: tuple[int, int, int, int], middle: int, blocks: list, *, rngs
  ):
    d_in, first, last, d_out = sizes
    self.conv_in = causal(d_in, first, rngs=rngs)
    self.blocks = nnx.List(blocks)
    self.middle = nnx.List(
      [
        Residual(middle, middle, rngs=rngs),
        Attention(middle, rngs=rngs),
        Residual(middle, middle, rngs=rngs),
      ]
    )
    self.norm_out = Norm(last)
    self.conv_out = causal(last, d_out, rngs=rngs)

  def run(self, layers: list, x: Array, past: FeatureCache) -> Array:
    x = self.conv_in(past.extend(x, 2))
    for layer in layers:
      x = layer(x, past)
    return self.conv_out(past.extend(nnx.silu(self.norm_out(x)), 2))


class Encoder(_Coder):
  """Pixels -> 2c channels, with 1 + 4k frames in a clip's first piece."""

  def __init__(self, settings: Settings, *, rngs):
    blocks, widths = [], settings.widths
    d = widths[0]
    for i, width in enumerate(widths):
      for _ in range(settings.residuals):
        blocks.append(Residual(d, width, rngs=rngs))
        d = width
      if i < len(settings.halves_time):
        blocks.append(Down(width, settings.halves_time[i], rngs=rngs))
    sizes = (3, widths[0], d, 2 * settings.channels)
    super().__init__(sizes, d, blocks, rngs=rngs)

  def __call__(
    self, x: Float[Array, "b t y x 3"], past: FeatureCache
  ) -> Float[Array, "b f h w c"]:
    return self.run([*self.blocks, *self.middle], x, past)


class Decoder(_Coder):
  """Latents -> pixels."""

  def __init__(self, settings: Settings, *, rngs):
    blocks, widths = [], settings.widths[::-1]
    d = widths[0]
    for i, width in enumerate(widths):
      for _ in range(settings.residuals + 1):
        blocks.append(Residual(d, width, rngs=rngs))
        d = width
      if i < len(settings.halves_time):
        blocks.append(Up(width, settings.halves_time[::-1][i], rngs=rngs))
        d = width // 2
    sizes = (settings.channels, widths[0], d, 3)
    super().__init__(sizes, widths[0], blocks, rngs=rngs)

  def __call__(
    self, z: Float[Array, "b f h w c"], past: FeatureCache
  ) -> Float[Array, "b t y x 3"]:
    return self.run([*self.middle, *self.blocks], z, past)


class Autoencoder(nnx.Module):
  """Encoder and decoder, each with a linear map of the latents."""

  def __init__(self, settings: Settings, *, rngs: nnx.Rngs):
    c = settings.channels
    self.encoder = Encoder(settings, rngs=rngs)
    self.quant = Linear(2 * c, 2 * c, rngs=rngs)
    self.post_quant = Linear(c, c, rngs=rngs)
    self.decoder = Decoder(settings, rngs=rngs)


def param_shapes(settings: Settings = PUBLISHED) -> PyTree:
  """The parameters' shapes, float32, as a nested dict."""
  return nnx_utils.param_shapes(Autoencoder, settings)


def _model(settings: Settings, params: PyTree, dtype: str) -> Autoencoder:
  """The model with all but the norms' parameters in `dtype`."""
  cast = {
    path: x if path.endswith("scale") else x.astype(dtype)
    for path, x in trees.flatten(params).items()
  }
  return nnx_utils.bind(Autoencoder, settings, trees.unflatten(cast))


def encode(
  params: PyTree,
  video: Array,
  settings: Settings = PUBLISHED,
  *,
  dtype: str = "float32",
  layout: Layout = ONE_DEVICE,
  chunk: int = 1,
  read: Callable[[Array], Array] = lambda x: x,
) -> tuple[Float[Array, "b f h w c"], Float[Array, "b f h w c"]]:
  """(mean, logvar) of eq. 1, float32, in pieces of `chunk` latent frames.

  `read` makes pixels in [-1, 1] of a piece of `video` (b, t, y, x, 3): a long
  clip may stay bytes. A mesh splits rows and columns; each of its devices needs
  as many.
  """
  model = _model(settings, params, dtype)

  def piece(x, seen):
    past = FeatureCache(seen, layout)
    y = model.quant(model.encoder(read(x).astype(dtype), past))
    return y.astype(jnp.float32), past.kept

  y = _in_pieces(piece, video, settings.stride[0], chunk)
  mean, logvar = jnp.split(y, 2, -1)
  m, s = jnp.array(settings.mean), jnp.array(settings.deviation)
  return (mean - m) / s, jnp.clip(logvar, -30, 20) - 2 * jnp.log(s)


def decode(
  params: PyTree,
  latents: Float[Array, "b f h w c"],
  settings: Settings = PUBLISHED,
  *,
  dtype: str = "float32",
  layout: Layout = ONE_DEVICE,
  chunk: int = 1,
  write: Callable[[Array], Array] = lambda x: x,
) -> Array:
  """Video (b, t, y, x, 3), float32 in [-1, 1], as `encode` takes it.

  `write` is applied to the pixels of each piece.
  """
  model = _model(settings, params, dtype)
  piece = functools.partial(_decode, model, settings, dtype, layout, write)
  return _in_pieces(piece, latents, 1, chunk)


def decode_piece(
  params: PyTree,
  latents: Float[Array, "b f h w c"],
  seen: Frames | None,
  settings: Settings = PUBLISHED,
  *,
  dtype: str = "float32",
  layout: Layout = ONE_DEVICE,
  write: Callable[[Array], Array] = lambda x: x,
) -> tuple[Array, Frames]:
  """One piece of what `decode` runs, and what it leaves for the next.

  seen: what the piece before left; None at the start of a clip.
  """
  model = _model(settings, params, dtype)
  return _decode(model, settings, dtype, layout, write, latents, seen)


def _decode(
  model: Autoencoder,
  settings: Settings,
  dtype: str,
  layout: Layout,
  write: Callable[[Array], Array],
  z: Array,
  seen: Frames | None,
) -> tuple[Array, Frames]:
  m, s = jnp.array(settings.mean), jnp.array(settings.deviation)
  past = FeatureCache(seen, layout)
  z = model.post_quant((z.astype(jnp.float32) * s + m).astype(dtype))
  y = model.decoder(z, past).astype(jnp.float32)
  return write(jnp.clip(y, -1, 1)), past.kept


def first_piece(length: int, stride: int, chunk: int) -> int:
  """Frames of the first piece, so that `chunk` strides are in all others."""
  return 1 + stride * ((length - 1) // stride % chunk)


def _in_pieces(
  piece: Callable[[Array, Frames | None], tuple[Array, Frames]],
  x: Array,
  stride: int,
  chunk: int,
) -> Array:
  """`piece` over 1 + stride k frames, `chunk` times `stride` of them a time."""
  first = first_piece(x.shape[1], stride, chunk)
  start, seen = piece(x[:, :first], None)
  if first == x.shape[1]:
    return start
  parts = rearrange(x[:, first:], "b (n t) ... -> n b t ...", t=stride * chunk)

  def body(seen, part):
    y, seen = piece(part, seen)
    return seen, y

  _, others = jax.lax.scan(body, seen, parts)
  others = rearrange(others, "n b t ... -> b (n t) ...")
  return jnp.concatenate([start, others], 1)

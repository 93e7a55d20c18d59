"""Wan2.1's autoencoder as a video codec: bytes <-> normalised latents.

Clips are encoded and decoded in chunks of time (see `wan_vae`); a mesh splits
rows and columns. If a picture is too large for a device, square tiles are
processed one after the other. Tiles overlap, and each has weight w at a pixel
at distance d from its nearest border:

    w = min(d / overlap, 1)        y = sum w y_tile / sum w                (1)

which blends two tiles linearly. The result is close to that without tiles but
not equal, as a tile does not see the pixels outside of it.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from ccl_jax.array_types import Array, Float, PyTree, Real, UInt8
from ccl_jax.codecs import api, runner, wan_vae
from ccl_jax.codecs.wan_layers import COLUMNS, Frames
from ccl_jax.params.sharding import ONE_DEVICE, Layout

_SPEC = (runner.ROWS, None, None, COLUMNS)


class WanVideoCodec(runner.LearnedCodec):
  """(b, 1 + 4k, 8h, 8w, 3) bytes <-> (b, 1 + k, h, w, 16) float32.

  Args:
    weights, layout: see the base class. Columns are split over the other axes
      of the mesh.
    dtype: of the convolutions; "auto" is bfloat16, but float32 on a CPU.
    chunk: latent frames per chunk.
    tile: side of the tiles in pixels; 0 for none.
    overlap: of the tiles, in pixels.
    channels, stride: of the latents; None reads them from `weights`.
  """

  module, config_class = wan_vae.Autoencoder, wan_vae.WanVAEConfig
  has_logvar = True

  def __init__(
    self,
    weights: epath.PathLike,
    *,
    dtype: str = "auto",
    chunk: int = 1,
    tile: int = 0,
    overlap: int = 64,
    channels: int | None = None,
    stride: Sequence[int] | None = None,
    layout: Layout = ONE_DEVICE,
  ):
    super().__init__(weights, layout)
    self.dtype, self.chunk = dtype, chunk
    self.tile, self.overlap = tile, overlap
    self.channels = self.config.channels if channels is None else channels
    self.stride = self.config.stride if stride is None else tuple(stride)
    side = self.stride[1]
    fits = 0 < overlap < tile or not tile
    if tile < 0 or tile % side or overlap % side or not fits:
      raise ValueError(
        f"{tile=}, {overlap=}: expected multiples of {side}, the overlap more"
        " than 0 and less than the tile."
      )

  def check_weights(self) -> None:
    """Raises ValueError for weights of other latents."""
    config = self.config
    if (self.channels, self.stride) != (config.channels, config.stride):
      raise ValueError(
        f"The weights in {self.weights} have {config.channels} channels and"
        f" stride {config.stride}, expected {self.channels} and {self.stride}."
      )

  def encode(self, video: api.Pixels) -> api.VideoLatents:
    """Returns the posterior's mean."""
    return self.posterior(video)[0]

  def posterior(
    self, video: api.Pixels
  ) -> tuple[api.VideoLatents, api.VideoLatents]:
    """Returns mean and log-variance of the normalised latents.

    Args:
      video: in [0, 255].

    Raises:
      ValueError: frames that are not 1 + 4k, sides that are not multiples of 8,
        or columns that the mesh does not divide.
    """
    api.check_video(self, video)
    run = functools.partial(posterior, chunk=self.chunk, **self._options())
    both = self._run(run, video, self.stride[1], 1)
    mean, logvar = np.split(both, 2, -1)
    return mean, logvar

  def decode(self, latents: api.VideoLatents) -> api.Video:
    """Returns the video.

    Raises:
      ValueError: latents of other channels, or columns that the mesh does not
        divide.
    """
    api.check_channels(self, latents)
    run = functools.partial(decode, chunk=self.chunk, **self._options())
    video = self._run(run, latents, 1, self.stride[1])
    return np.round(video).astype(np.uint8) if self.tile else video

  def stream(self, latents: api.VideoLatents) -> Iterator[api.Video]:
    """Yields the video of `decode`, a chunk of time after the other.

    In tiles, all of it comes at once.

    Raises:
      ValueError: as `decode`.
    """
    if self.tile:
      yield self.decode(latents)
      return
    api.check_channels(self, latents)
    options = self._options()
    start, frames, pending = 0, None, None
    first = wan_vae.first_chunk_length(latents.shape[1], 1, self.chunk)
    for stop in range(first, latents.shape[1] + 1, self.chunk):
      x = self._put(latents[:, start:stop], 1)
      video, frames = decode_chunk(self.params, x, frames, **options)
      # The device computes this chunk while the one before is used.
      if pending is not None:
        yield np.asarray(pending)[: len(latents)]
      start, pending = stop, video
    yield np.asarray(pending)[: len(latents)]

  def _options(self) -> dict[str, Any]:
    dtype = self.dtype
    if dtype == "auto":
      platform = self.layout.device.platform
      dtype = "float32" if platform == "cpu" else "bfloat16"
    return dict(config=self.config, dtype=dtype, layout=self.layout)

  def _run(
    self, run: Callable, x: np.ndarray, unit: int, scale: int
  ) -> np.ndarray:
    """Returns `run(params, x)`, in tiles if there are any.

    Args:
      unit, scale: width of one latent in x and in the result.
    """

    def call(x):
      return np.asarray(run(self.params, self._put(x, unit)))[: len(x)]

    if not self.tile:
      return call(x)
    tile, overlap = (n // self.stride[1] for n in (self.tile, self.overlap))
    return map_tiles(call, x, tile, overlap, unit, scale)

  def _put(self, x: np.ndarray, unit: int) -> Array:
    """Returns x on the devices, with padded rows."""
    width, columns = x.shape[3] // unit, self.layout.size(COLUMNS)
    if width % columns:
      raise ValueError(
        f"{x.shape=}: a width of {width} latents cannot be split {columns} ways"
        f" over {COLUMNS}. Change the mesh, or the size."
      )
    return runner.put_batch(self.layout, x, _SPEC)


def map_tiles(
  run: Callable[[np.ndarray], np.ndarray],
  x: Float[np.ndarray, "b t y x c"] | UInt8[np.ndarray, "b t y x c"],
  tile: int,
  overlap: int,
  unit: int = 1,
  scale: int = 1,
) -> Float[np.ndarray, "b s v u d"]:
  """Returns `run` of overlapping square tiles of x, blended by (1).

  Args:
    run: (b, t, unit h, unit w, c) -> (b, s, scale h, scale w, d).
    tile, overlap: in latents; a tile is no larger than x.
    unit, scale: width of one latent in x and in the result.
  """
  height, width = x.shape[2] // unit, x.shape[3] // unit
  total, weight = 0.0, np.zeros((scale * height, scale * width, 1), np.float32)
  for top in tile_starts(height, tile, overlap):
    for left in tile_starts(width, tile, overlap):
      part = _tile_slices(top, left, tile, unit)
      y = np.asarray(run(x[:, :, *part]), np.float32)
      if np.isscalar(total):
        total = np.zeros(
          (*y.shape[:2], *weight.shape[:2], y.shape[-1]), y.dtype
        )
      ramps = [_ramp(n, scale * overlap) for n in y.shape[2:4]]
      share = (ramps[0][:, None] * ramps[1])[..., None]
      part = _tile_slices(top, left, tile, scale)
      total[:, :, *part] += share * y
      weight[part] += share
  return total / weight


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
  """Returns where tiles begin: evenly, with at least `overlap` in common."""
  if length <= tile:
    return [0]
  count = math.ceil((length - overlap) / (tile - overlap))
  return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def _tile_slices(
  top: int, left: int, tile: int, unit: int
) -> tuple[slice, slice]:
  return tuple(slice(n * unit, (n + tile) * unit) for n in (top, left))


def _ramp(length: int, overlap: int) -> Float[np.ndarray, " n"]:
  """Returns w of (1) along one axis."""
  distance = np.arange(length, dtype=np.float32) + 0.5
  return np.minimum(np.minimum(distance, distance[::-1]) / overlap, 1)


def from_bytes(x: Real[Array, " *b"]) -> Float[Array, " *b"]:
  """Returns [0, 255] as [-1, 1]."""
  return x.astype(jnp.float32) / 127.5 - 1


def to_bytes(x: Float[Array, " *b"]) -> UInt8[Array, " *b"]:
  """Returns the inverse of `from_bytes`, rounded."""
  return jnp.round((x + 1) * 127.5).astype(jnp.uint8)


_jit = functools.partial(
  jax.jit, static_argnames=("config", "dtype", "chunk", "layout")
)


@_jit
def posterior(params: PyTree, video: Array, **options) -> Array:
  """Returns mean and logvar, concatenated along the channels."""
  both = wan_vae.encode(params, video, read=from_bytes, **options)
  return jnp.concatenate(both, -1)


@_jit
def decode(params: PyTree, latents: Array, **options) -> Array:
  """Returns the bytes of a clip, (b, t, y, x, 3)."""
  return wan_vae.decode(params, latents, write=to_bytes, **options)


@_jit
def decode_chunk(
  params: PyTree, latents: Array, frames: Frames | None, **options
) -> tuple[Array, Frames]:
  """Returns the bytes of one chunk, and the cache for the next."""
  run = wan_vae.chunk_decoder(params, write=to_bytes, **options)
  return run(latents, frames)

"""Wan2.1's autoencoder as a video codec: bytes <-> normalised latents.

Clips are encoded and decoded in pieces of time (see `wan_vae`), on a mesh row
by row and in strips of columns. Where a whole picture is too much for a device,
square tiles are run one after the other. Tiles overlap, and each counts w at a
pixel that is d from its nearest border:

    w = min(d / overlap, 1)        y = sum w y_tile / sum w                (1)

which is a linear blend where two meet. They are near the whole picture's
numbers and not equal: a tile does not see what is outside.
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
from ccl_jax.codecs import converted_weights, wan_vae
from ccl_jax.codecs.wan_layers import COLUMNS, ROWS
from ccl_jax.config import to_tuples
from ccl_jax.sharding import ONE_DEVICE, Layout


class WanVideoCodec:
  """(b, 1 + 4k, 8h, 8w, 3) bytes <-> (b, 1 + k, h, w, 16) float32.

  Args:
    weights: folder of converted weights (`codecs.converted_weights`).
    dtype: that convolutions run in; "auto" is bfloat16, but float32 on a CPU.
    chunk: latent frames in a piece of time.
    tile: side of the tiles in pixels; 0 runs whole pictures.
    overlap: of the tiles, in pixels.
    channels, stride: of the latents; None asks `weights`, which are else read
      at the first use only.
    layout: rows are split over `data` and `fsdp`, columns over the others. All
      devices of the mesh must be this process's.
  """

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
    self.weights = str(weights)
    self.dtype, self.chunk = dtype, chunk
    self.tile, self.overlap = tile, overlap
    self.layout = layout
    self.channels = self.model.channels if channels is None else channels
    self.stride = self.model.stride if stride is None else tuple(stride)
    self._check_tiles()

  @functools.cached_property
  def model(self) -> wan_vae.Settings:
    """The model's sizes."""
    return wan_vae.Settings(
      **to_tuples(converted_weights.about(self.weights)["settings"])
    )

  @functools.cached_property
  def params(self) -> PyTree:
    """The model's parameters, on the devices.

    Raises:
      ValueError: those of a model of other latents than this codec's.
    """
    if (self.channels, self.stride) != (self.model.channels, self.model.stride):
      raise ValueError(
        f"The weights in {self.weights} have {self.model.channels} channels and"
        f" stride {self.model.stride}, expected {self.channels} and"
        f" {self.stride}."
      )
    shapes = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(
        x.shape, x.dtype, sharding=self.layout.sharding()
      ),
      wan_vae.param_shapes(self.model),
    )
    return converted_weights.read(self.weights, shapes)

  def latent_frames(self, frames: int) -> int:
    """f for `frames` pixel frames; a ValueError unless they are 1 + 4k."""
    stride = self.stride[0]
    if frames < 1 or (frames - 1) % stride:
      raise ValueError(
        f"{frames=}: expected 1 + {stride}k frames, such as"
        f" {max(frames - (frames - 1) % stride, 1)}."
      )
    return 1 + frames // stride

  def encode(
    self, video: Real[np.ndarray, "b t y x 3"]
  ) -> Float[np.ndarray, "b f h w c"]:
    """The posterior's mean."""
    return self.posterior(video)[0]

  def posterior(
    self, video: Real[np.ndarray, "b t y x 3"]
  ) -> tuple[Float[np.ndarray, "b f h w c"], Float[np.ndarray, "b f h w c"]]:
    """(mean, logvar) of the latents, on their normalised scale.

    video: bytes, or numbers on their scale.

    Raises:
      ValueError: frames that are not 1 + 4k, sides that are not multiples of 8,
        or columns that the mesh does not divide.
    """
    self.latent_frames(video.shape[1])
    if video.shape[2] % self.stride[1] or video.shape[3] % self.stride[2]:
      raise ValueError(
        f"{video.shape=}: height and width must be multiples of"
        f" {self.stride[1]}."
      )
    run = functools.partial(posterior, **self._options())
    both = self._in_tiles(run, video, self.stride[1], 1)
    mean, logvar = np.split(both, 2, -1)
    return mean, logvar

  def decode(
    self, latents: Float[np.ndarray, "b f h w c"]
  ) -> UInt8[np.ndarray, "b t y x 3"]:
    """Raises ValueError for other channels, as `posterior` for columns."""
    self._check_channels(latents)
    run = functools.partial(decode, **self._options())
    video = self._in_tiles(run, latents, 1, self.stride[1])
    return np.round(video).astype(np.uint8) if self.tile else video

  def stream(
    self, latents: Float[np.ndarray, "b f h w c"]
  ) -> Iterator[UInt8[np.ndarray, "b t y x 3"]]:
    """What `decode` gives, a piece of time at once; in tiles, all at once.

    Raises:
      ValueError: as `decode`.
    """
    if self.tile:
      yield self.decode(latents)
      return
    self._check_channels(latents)
    options = self._options()
    chunk = options.pop("chunk")
    start, seen, done = 0, None, None
    first = wan_vae.first_piece(latents.shape[1], 1, chunk)
    for stop in range(first, latents.shape[1] + 1, chunk):
      part = self._put(latents[:, start:stop], 1)
      video, seen = decode_piece(self.params, part, seen, **options)
      # The device works on this piece while the one before is used.
      if done is not None:
        yield np.asarray(done)[: len(latents)]
      start, done = stop, video
    yield np.asarray(done)[: len(latents)]

  def settings(self) -> dict[str, Any]:
    """With no arrays, the constructor's arguments."""
    names = (
      "weights", "dtype", "chunk", "tile", "overlap", "channels",
    )  # fmt: skip
    return {n: getattr(self, n) for n in names} | {"stride": list(self.stride)}

  def arrays(self) -> dict[str, np.ndarray]:
    return {}

  def _options(self) -> dict[str, Any]:
    dtype = self.dtype
    if dtype == "auto":
      mesh = self.layout.mesh
      device = jax.devices()[0] if mesh is None else mesh.devices.flat[0]
      dtype = "float32" if device.platform == "cpu" else "bfloat16"
    return dict(
      settings=self.model, dtype=dtype, chunk=self.chunk, layout=self.layout
    )

  def _check_channels(self, latents: np.ndarray) -> None:
    if latents.shape[-1] != self.channels:
      raise ValueError(
        f"{latents.shape=}: this codec has {self.channels} channels."
      )

  def _check_tiles(self) -> None:
    side = self.stride[1]
    if self.tile % side or self.overlap % side or self.tile < 0:
      raise ValueError(
        f"{self.tile=}, {self.overlap=}: expected multiples of {side}."
      )
    if self.tile and not 0 < self.overlap < self.tile:
      raise ValueError(
        f"{self.overlap=}: expected more than 0 and less than {self.tile=}."
      )

  def _in_tiles(
    self, run: Callable, x: np.ndarray, unit: int, scale: int
  ) -> np.ndarray:
    """`run` on x, whose latents are `unit` entries wide, and `scale` after."""
    call = functools.partial(self._on_mesh, run, unit)
    if not self.tile:
      return call(x)
    tile, overlap = (n // self.stride[1] for n in (self.tile, self.overlap))
    return in_tiles(call, x, tile, overlap, unit, scale)

  def _on_mesh(self, run: Callable, unit: int, x: np.ndarray) -> np.ndarray:
    """`run(params, x)` as a numpy array."""
    return np.asarray(run(self.params, self._put(x, unit)))[: len(x)]

  def _put(self, x: np.ndarray, unit: int) -> Array:
    """x on the devices; rows that the mesh does not divide are filled up."""
    rows, columns = self.layout.size(ROWS), self.layout.size(COLUMNS)
    if x.shape[3] // unit % columns:
      raise ValueError(
        f"{x.shape=}: a width of {x.shape[3] // unit} latents cannot be split"
        f" {columns} ways over {COLUMNS}. Change the mesh, or the size."
      )
    x = np.concatenate([x, np.repeat(x[-1:], -len(x) % rows, axis=0)])
    return jax.device_put(x, self.layout.sharding(ROWS, None, None, COLUMNS))


def in_tiles(
  run: Callable[[np.ndarray], np.ndarray],
  x: Float[np.ndarray, "b t y x c"] | UInt8[np.ndarray, "b t y x c"],
  tile: int,
  overlap: int,
  unit: int = 1,
  scale: int = 1,
) -> Float[np.ndarray, "b s v u d"]:
  """`run` on overlapping square tiles of x, blended by eq. 1.

  Args:
    run: (b, t, unit h, unit w, c) -> (b, s, scale h, scale w, d).
    tile, overlap: in latents; a tile is no larger than x.
  """
  height, width = x.shape[2] // unit, x.shape[3] // unit
  total, weight = 0.0, np.zeros((scale * height, scale * width, 1), np.float32)
  for top in starts(height, tile, overlap):
    for left in starts(width, tile, overlap):
      part = _window(top, left, tile, unit)
      y = np.asarray(run(x[:, :, *part]), np.float32)
      if np.isscalar(total):
        total = np.zeros(
          (*y.shape[:2], *weight.shape[:2], y.shape[-1]), y.dtype
        )
      ramps = [_ramp(n, scale * overlap) for n in y.shape[2:4]]
      share = (ramps[0][:, None] * ramps[1])[..., None]
      part = _window(top, left, tile, scale)
      total[:, :, *part] += share * y
      weight[part] += share
  return total / weight


def starts(length: int, tile: int, overlap: int) -> list[int]:
  """Where tiles begin, evenly, so that neighbours share `overlap` or more."""
  if length <= tile:
    return [0]
  count = math.ceil((length - overlap) / (tile - overlap))
  return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def _window(top: int, left: int, tile: int, unit: int) -> tuple[slice, slice]:
  return tuple(slice(n * unit, (n + tile) * unit) for n in (top, left))


def _ramp(length: int, overlap: int) -> Float[np.ndarray, " n"]:
  distance = np.arange(length, dtype=np.float32) + 0.5
  return np.minimum(np.minimum(distance, distance[::-1]) / overlap, 1)


def from_bytes(x: Real[Array, " *b"]) -> Float[Array, " *b"]:
  """0..255 as [-1, 1]."""
  return x.astype(jnp.float32) / 127.5 - 1


def to_bytes(x: Float[Array, " *b"]) -> UInt8[Array, " *b"]:
  """The inverse of `from_bytes`, rounded."""
  return jnp.round((x + 1) * 127.5).astype(jnp.uint8)


@functools.partial(
  jax.jit, static_argnames=("settings", "dtype", "chunk", "layout")
)
def posterior(params: PyTree, video: Array, **options) -> Array:
  """Mean and logvar, one behind the other."""
  both = wan_vae.encode(params, video, read=from_bytes, **options)
  return jnp.concatenate(both, -1)


@functools.partial(
  jax.jit, static_argnames=("settings", "dtype", "chunk", "layout")
)
def decode(params: PyTree, latents: Array, **options) -> Array:
  """Bytes of a whole clip, (b, t, y, x, 3)."""
  return wan_vae.decode(params, latents, write=to_bytes, **options)


@functools.partial(jax.jit, static_argnames=("settings", "dtype", "layout"))
def decode_piece(
  params: PyTree, latents: Array, seen: tuple[Array, ...] | None, **options
) -> tuple[Array, tuple[Array, ...]]:
  """Bytes of one piece, and what the next one needs of it as `seen`."""
  return wan_vae.decode_piece(params, latents, seen, write=to_bytes, **options)

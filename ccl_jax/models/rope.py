"""Rotary position embedding, equal to Wan2.1's up to a channel permutation.

A head of e channels is split over the axes (t, h, w) as
(e - 4 (e // 6), 2 (e // 6), 2 (e // 6)): 44, 42, 42 for e = 128. An axis of D
channels turns pair i by

    angle_i(p) = p * 10000^(-2i / D),   i = 0 .. D/2 - 1                   (1)

Wan pairs neighbours (2p, 2p + 1). Here pair p is (p, p + e/2): the rotation is
then two slices and no shuffle of a full activation. `half_split_order` is the
permutation of q and k channels that makes both equal; the converters apply it
to weights, once.
"""

from collections.abc import Sequence

import einops
import jax.numpy as jnp
import numpy as np

from ccl_jax.array_types import Array, Float, Int, Real
from ccl_jax.ops import cpu

THETA = 1e4


def axis_dims(head_size: int) -> tuple[int, int, int]:
  """Returns a head's channels for the axes (t, h, w): 128 -> 44, 42, 42."""
  side = 2 * (head_size // 6)
  return head_size - 2 * side, side, side


def half_split_order(head_size: int) -> Int[np.ndarray, " e"]:
  """Returns indices into Wan's interleaved channels: ours[i] = wan[order[i]].

  (even channels, then odd ones): [0, 2, 4, ..., 1, 3, 5, ...].
  """
  return np.arange(head_size).reshape(-1, 2).T.ravel()


def axis_angles(
  position: Real[np.ndarray, " n"], dims: int
) -> Float[np.ndarray, "n half"]:
  """Returns eq. 1 in float64."""
  frequency = THETA ** (-np.arange(0, dims, 2, dtype=np.float64) / dims)
  return np.asarray(position, np.float64)[:, None] * frequency


def video_angles(
  time: Float[np.ndarray, " f"], h: int, w: int, head_size: int
) -> Float[Array, "n half"]:
  """Returns angles of the (f, h, w) grid; `time` is the t position of frames.

  Only the three per-axis tables are constants of the program; the grid is a
  broadcast, so that nothing of n * e elements is stored.
  """
  t_dims, h_dims, w_dims = axis_dims(head_size)
  f = len(time)
  axes = (
    (axis_angles(time, t_dims), "f d -> f h w d"),
    (axis_angles(np.arange(h, dtype=float), h_dims), "h d -> f h w d"),
    (axis_angles(np.arange(w, dtype=float), w_dims), "w d -> f h w d"),
  )
  grid = [
    einops.repeat(jnp.asarray(a, jnp.float32), p, f=f, h=h, w=w)
    for a, p in axes
  ]
  return einops.rearrange(jnp.concatenate(grid, -1), "f h w d -> (f h w) d")


def token_angles(
  positions: Sequence[Real[np.ndarray, " n"]], head_size: int
) -> Float[Array, "n half"]:
  """Returns angles of tokens at these positions (t, h, w)."""
  pairs = zip(positions, axis_dims(head_size), strict=True)
  angles = [axis_angles(position, dims) for position, dims in pairs]
  return jnp.asarray(np.concatenate(angles, -1), jnp.float32)


def time_angles(
  time: Float[np.ndarray, " n"], head_size: int
) -> Float[Array, "n half"]:
  """Returns angles that turn only the t channels of a head."""
  still = np.zeros_like(time)
  return token_angles((time, still, still), head_size)


def sequence_angles(
  position: Real[np.ndarray, " n"], head_size: int
) -> Float[Array, "n half"]:
  """Returns angles of a 1-D sequence, for which the head is one axis."""
  return jnp.asarray(axis_angles(position, head_size), jnp.float32)


@cpu.replaced_on_cpu(cpu.rotate)
def rotate(
  x: Float[Array, "b n k e"], angles: Float[Array, "n half"]
) -> Float[Array, "b n k e"]:
  """Turns the pairs (p, p + e/2) of x by `angles`, in float32.

  (first, second) -> (first cos - second sin, second cos + first sin).
  """
  angles = angles[None, :, None]
  cos, sin = jnp.cos(angles), jnp.sin(angles)
  first, second = jnp.split(x.astype(jnp.float32), 2, -1)
  turned = (first * cos - second * sin, second * cos + first * sin)
  return jnp.concatenate(turned, -1).astype(x.dtype)

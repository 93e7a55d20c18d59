"""Masks as data: who sees whom, without an n x m array.

Query i of sample b sees key j iff all three hold:

    pattern.visible(i, j)                    static, computed from the indices
    j < k_lengths[b]                         padding
    q_segments[b, i] == k_segments[b, j]     routing, documents

Patterns are frozen, hashable and static pytrees, so a `Mask` may cross jit,
scan and vmap. The output of a query that sees no key is undefined.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ccl_jax.array_types import Array, Bool, Int


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Full:
  """Every query sees every key, or the first `num_keys` of them."""

  num_keys: int | None = None

  def visible(self, q_index, k_index):
    """Returns bools, broadcast from indices (numpy, jax or in a kernel)."""
    is_real = k_index >= 0 if self.num_keys is None else k_index < self.num_keys
    return (q_index >= 0) & is_real  # all queries, for the shape


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Window:
  """Queries see the context, and the keys of frames at most `radius` away.

  Keys are `num_context` context tokens (LCT), then `k_per_frame` a frame;
  queries are `q_per_frame` a frame. `Window(1, 2, radius=1, num_context=1)`,
  four video frames reading audio, is

      frame   LCT | a0 a1 | a2 a3 | a4 a5 | a6 a7
        0      1  |  1  1 |  1  1 |  0  0 |  0  0
        1      1  |  1  1 |  1  1 |  1  1 |  0  0
        2      1  |  0  0 |  1  1 |  1  1 |  1  1
        3      1  |  0  0 |  0  0 |  1  1 |  1  1
  """

  q_per_frame: int
  k_per_frame: int
  radius: int
  num_context: int = 0

  def __post_init__(self):
    per_frame = min(self.q_per_frame, self.k_per_frame)
    if per_frame < 1 or min(self.radius, self.num_context) < 0:
      raise ValueError(
        f"got {self}: expected at least one token a frame, and a radius and"
        " num_context of at least 0."
      )

  @property
  def keys_per_query(self) -> int:
    """Returns the number of keys that a query sees far from both ends."""
    return self.num_context + (2 * self.radius + 1) * self.k_per_frame

  def visible(self, q_index, k_index):
    """Returns bools, broadcast from indices (numpy, jax or in a kernel)."""
    q_frame = q_index // self.q_per_frame
    k_frame = (k_index - self.num_context) // self.k_per_frame
    near = abs(q_frame - k_frame) <= self.radius
    return (k_index < self.num_context) | near


def _divide(index, by: int):
  """Returns index // by of indices that are not negative.

  It does not use the sign, which Mosaic cannot compile for a remote chip.
  """
  if isinstance(index, jax.Array):
    return jax.lax.div(index, index.dtype.type(by))
  return index // by


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class FrameBlocks:
  """Video sees all video; the tokens of a frame see each other.

  Queries and keys have the same order: in each frame `video` tokens of video,
  then `audio` of audio. `FrameBlocks(2, 1)`, three frames, is

      frame   v0 v0 a0 | v1 v1 a1 | v2 v2 a2
       v0      1  1  1 |  1  1  0 |  1  1  0
       v0      1  1  1 |  1  1  0 |  1  1  0
       a0      1  1  1 |  0  0  0 |  0  0  0
       v1      1  1  0 |  1  1  1 |  1  1  0
       v1      1  1  0 |  1  1  1 |  1  1  0
       a1      0  0  0 |  1  1  1 |  0  0  0
       v2      1  1  0 |  1  1  0 |  1  1  1
       v2      1  1  0 |  1  1  0 |  1  1  1
       a2      0  0  0 |  0  0  0 |  1  1  1

  Frames from `num_frames` on are padding, which no other frame sees.
  """

  video: int
  audio: int
  num_frames: int | None = None

  def visible(self, q_index, k_index):
    """Returns bools, broadcast from indices (numpy, jax or in a kernel)."""
    tokens = self.video + self.audio
    q_frame, k_frame = (_divide(x, tokens) for x in (q_index, k_index))
    from_video = q_index - q_frame * tokens < self.video
    to_video = k_index - k_frame * tokens < self.video
    if self.num_frames is not None:
      to_video = to_video & (k_frame < self.num_frames)
    return from_video & to_video | (q_frame == k_frame)


Pattern = Full | Window | FrameBlocks


class Mask(NamedTuple):
  """A static pattern and its per-sample restrictions (see the module).

  Attributes:
    pattern: `Full`, `Window` or `FrameBlocks`.
    k_lengths: (b,) int, the number of real keys, or None for all.
    q_segments: (b, n) int >= 0; None if and only if `k_segments` is None.
    k_segments: (b, m) int >= 0, or None.
  """

  pattern: Pattern = Full()
  k_lengths: Int[Array, " b"] | None = None
  q_segments: Int[Array, "b n"] | None = None
  k_segments: Int[Array, "b m"] | None = None

  @classmethod
  def routed(
    cls, window: Window, sees: Bool[Array, " b"], n: int, m: int
  ) -> "Mask":
    """Returns `window` where a sample sees the other stream, else its context.

    The context keys always carry the queries' id, so no row is ever empty.

    Raises:
      ValueError: the window has no context to fall back on.
    """
    if not window.num_context:
      raise ValueError(
        f"Routing needs num_context >= 1, got {window}; without context,"
        " leave the mask unrouted and switch the module's output off instead."
      )
    is_context = jnp.arange(m)[None] < window.num_context
    k_segments = (is_context | sees[:, None]).astype(jnp.int32)
    q_segments = jnp.ones((sees.shape[0], n), jnp.int32)
    return cls(window, q_segments=q_segments, k_segments=k_segments)

  def hide(
    self, hidden: Bool[Array | np.ndarray, "*b m"], b: int, n: int
  ) -> "Mask":
    """Returns the mask, for b samples and n queries, without some keys.

    Args:
      hidden: of all samples, (m,), or of each, (b, m).
    """
    q_segments, k_segments = self.q_segments, self.k_segments
    if k_segments is None:
      q_segments = jnp.ones((b, n), jnp.int32)
      k_segments = jnp.ones((b, hidden.shape[-1]), jnp.int32)
    hidden = hidden.reshape(-1, hidden.shape[-1])
    unseen = jnp.where(hidden, 2, k_segments)  # an id that no query has
    return self._replace(q_segments=q_segments, k_segments=unseen)

  @property
  def is_static(self) -> bool:
    """Returns whether no sample restricts the pattern."""
    return self.k_lengths is None and self.k_segments is None

  def ids(
    self, n: int, m: int
  ) -> tuple[Int[Array, " #b n"], Int[Array, " #b m"]]:
    """Returns one id per query and key: equal ids may meet.

    Keys past their length have id -1, which no query has.
    """
    q_ids, k_ids = self.q_segments, self.k_segments
    if k_ids is None:
      q_ids, k_ids = jnp.zeros((1, n), jnp.int32), jnp.zeros((1, m), jnp.int32)
    if self.k_lengths is not None:
      is_real = jnp.arange(m)[None] < self.k_lengths[:, None]
      k_ids = jnp.where(is_real, k_ids, -1)
    return q_ids, k_ids

  def dense(self, n: int, m: int) -> Bool[Array, " #b n m"]:
    """Returns the full 0/1 matrix, for tests and the reference only."""
    q_ids, k_ids = self.ids(n, m)
    seen = self.pattern.visible(jnp.arange(n)[:, None], jnp.arange(m)[None])
    return seen[None] & (q_ids[:, :, None] == k_ids[:, None])

  def check(self, b: int, n: int, m: int) -> None:
    """Checks the shapes for b samples of n by m; else raises ValueError."""
    expected = {"k_lengths": (b,), "q_segments": (b, n), "k_segments": (b, m)}
    for name, shape in expected.items():
      array = getattr(self, name)
      if array is not None and array.shape != shape:
        raise ValueError(
          f"mask.{name} has shape {array.shape}, expected {shape}."
        )
    if (self.q_segments is None) != (self.k_segments is None):
      raise ValueError(
        "mask has one of q_segments and k_segments: expected both or neither."
      )

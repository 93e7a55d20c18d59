"""A fusion joins two streams by two hooks, called once in every block.

`attend` is the streams' self-attention; `exchange` returns what each stream
adds from the other, both computed from the same snapshot. Streams stay
independent if a fusion overrides neither hook. `self_attentions` may adapt the
blocks that `attend` uses, and run them again.

In sampling, some inputs of `exchange` never change: the context tokens, and a
stream that is a reference at t = 0 and does not see the other. A `KVCache`
holds their keys and values; `context_kv` and `reference_kv` compute them. The
cache requires that a stream that sees nothing equals the stream alone, which is
true for all fusions whose `attend` keeps the streams apart.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ccl_jax.array_types import STREAMS, Array, Bool, Float, Route, interleave
from ccl_jax.attention import Attention, Full, Mask
from ccl_jax.models.audio_grid import AudioGrid

Grid = tuple[int, int, int]
# Keys and values of some tokens, (b, m, k, e) each.
Pair = tuple[Array, Array]
# Stream -> tokens, (b, f, s, d).
Tokens = dict[str, Array]
# Stream -> queries, keys and values, (b, n, k, e) each.
QKV = dict[str, tuple[Array, Array, Array]]
# (QKV, shared) -> what is attended, by stream.
Attend = Callable[..., dict[str, Array]]


class FusionContext(NamedTuple):
  """Inputs that all layers share.

  Attributes:
    grids: stream -> (f, h, w) tokens; f is a multiple of the context axis.
    frames: how many of the f are real; the rest is padding. The last of them
      are the r reference pictures, if there are any.
    route: who sees whom.
    attention: how to attend.
    audio_per_frame: c, audio latents per frame; None takes those of `grids`.
    references: which reference pictures each sample has, (b, r), or None.
  """

  grids: dict[str, Grid]
  frames: int
  route: Route
  attention: Attention
  audio_per_frame: float | int | None = None
  references: Bool[Array, "b r"] | None = None

  @property
  def clip_frames(self) -> int:
    """Returns the number of real frames without reference pictures."""
    r = 0 if self.references is None else self.references.shape[1]
    return self.frames - r

  @property
  def video_times(self) -> Float[np.ndarray, " f"]:
    """Returns positions: frames from 0, reference pictures down from -1."""
    times = np.arange(self.grids["video"][0], dtype=float)
    clip, end = self.clip_frames, self.frames
    times[clip:end] = -1 - np.arange(end - clip)
    return times

  @property
  def absent(self) -> Bool[Array, "b n"] | None:
    """Returns which video tokens are of pictures that samples lack, if any."""
    if self.references is None:
      return None
    f, h, w = self.grids["video"]
    ends = (0, 0), (self.clip_frames, f - self.frames)
    return jnp.repeat(jnp.pad(~self.references, ends), h * w, axis=1)

  @property
  def audio_grid(self) -> AudioGrid:
    """Returns where audio latents are, with padded frames."""
    f, _, _ = next(iter(self.grids.values()))
    _, _, c = self.grids.get("audio", (f, 1, 1))
    return AudioGrid(f, self.audio_per_frame or c)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
  """Keys and values that are constant over sampler steps, stacked over layers.

  Attributes:
    contexts: side -> of the context tokens that it reads, batch of 1.
    runs: for each run of the reference, stream -> as the other side reads it,
      (b, n, k, e).
    reads: the index in `runs` that each of the p passes of a sample reads, in
      a batch of b p rows, p of each sample side by side; () if none reads any.
  """

  contexts: dict[str, Any] = dataclasses.field(default_factory=dict)
  runs: tuple[dict[str, Any], ...] = ()
  reads: tuple[int, ...] = dataclasses.field(
    default=(), metadata={"static": True}
  )

  def of(self, stream: str) -> Pair | None:
    """Returns keys and values of `stream` for all rows; None if uncached."""
    if not self.reads or stream not in self.runs[0]:
      return None
    return interleave(*(self.runs[i][stream] for i in self.reads))


NO_CACHE = KVCache()


def first_keys(num: int, k: Float[Array, "b m k e"]) -> Mask:
  """Returns the mask that hides the keys after the first `num`, if any are."""
  return Mask(Full(num if num < k.shape[1] else None))


def video_keys(shared: FusionContext, k: Float[Array, "b n k e"]) -> Mask:
  """Returns the mask of a video's self-attention."""
  _, h, w = shared.grids["video"]
  mask, absent = first_keys(shared.frames * h * w, k), shared.absent
  return mask if absent is None else mask.hide(absent, *absent.shape)


class Fusion(nnx.Module):
  """Two independent towers: the interface and its neutral element.

  Attributes:
    updated: streams whose tokens the blocks update; others stay as embedded.
    reads_references: whether reference pictures are frames beside the clip's.
    uncacheable: why there is no `reference_kv`; "" if there is.
  """

  updated = STREAMS
  reads_references = False
  uncacheable = ""

  def __init__(
    self, widths: dict[str, int], head_sizes: dict[str, int], *, rngs, dtype
  ):
    """Takes what every fusion is given; see `fusion.make_fusion`."""

  def angles_of(self, shared: FusionContext) -> dict[str, Array]:
    """Returns RoPE of self-attention, for streams that do not use their own."""
    return {}

  def self_attentions(
    self, blocks: dict[str, nnx.Module]
  ) -> tuple[tuple[dict[str, nnx.Module], Attend], ...]:
    """Returns the self-attentions of a layer, which run one after another.

    Returns:
      For each self-attention, stream -> the block whose projections are used,
      and the function that attends.
    """
    return ((blocks, self.attend),)

  def attend(self, qkv: QKV, shared: FusionContext) -> dict[str, Array]:
    """Returns self-attention, stream -> (b, n, k, e)."""
    audio = dataclasses.replace(shared.audio_grid, frames=shared.frames)
    attended = {}
    for s, (q, k, v) in qkv.items():
      if s == "audio" and not audio.is_full:
        k, v = k[:, audio.tokens], v[:, audio.tokens]
      if s == "video":
        mask = video_keys(shared, k)
      else:
        mask = first_keys(audio.num_latents, k)
      attended[s] = shared.attention.self_attention(s, q, k, v, mask)
    return attended

  def exchange(
    self, x: Tokens, shared: FusionContext, cache: KVCache = NO_CACHE
  ) -> Tokens:
    """Returns what to add to each stream; nothing for others."""
    return {}

  def context_kv(self, dtype: Any) -> dict[str, Pair]:
    """Returns keys and values of the context tokens that each side reads."""
    return {}

  def reference_kv(self, x: Tokens, shared: FusionContext) -> dict[str, Pair]:
    """Returns keys and values of each stream as the other side reads it."""
    return {}

  def attention_shares(
    self, x: Tokens, shared: FusionContext
  ) -> dict[str, Array]:
    """Returns each side's attention to the other stream, (b, n).

    It is a mean over heads; the rest goes to the context tokens. Only sides
    that read another stream have an entry.
    """
    return {}

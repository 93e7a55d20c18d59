"""What joins two streams: two hooks, called once in every block.

`attend` is how the streams self-attend, `exchange` what each adds to itself
from the other, both sides read from the same snapshot. A fusion that leaves a
hook alone keeps the streams independent there.

When sampling, some of what `exchange` reads never changes: the context tokens,
and a stream that is a reference at t = 0 and does not see the other. A `KVCache`
holds the keys and values of these; `contexts` and `remember` make them. It is
needed that a stream which sees nothing equals the stream alone: true for all
fusions whose `attend` keeps the streams apart.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
from flax import nnx

from ccl_jax import trees
from ccl_jax.array_types import Array, Route
from ccl_jax.attention import Attention

Grid = tuple[int, int, int]
# Keys and values of some tokens, (b, m, k, e) each.
Pair = tuple[Array, Array]


class FusionContext(NamedTuple):
  """What all layers have in common.

  Attributes:
    grids: stream -> (f, h, w) tokens; f is a multiple of the context axis.
    frames: how many of the f are true; the rest is padding.
    route: who sees whom.
    attention: how to attend.
  """

  grids: dict[str, Grid]
  frames: int
  route: Route
  attention: Attention


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
  """What does not change from step to step, with a leading axis of layers.

  Attributes:
    contexts: side -> keys and values of its context tokens, batch of 1.
    runs: of each run of the reference, stream -> its keys and values as the
      other side reads them, (b, n, k, e).
    reads: which run each pass of a sample reads, if a batch of b p rows holds
      p passes of each sample side by side; () if none reads any.
  """

  contexts: dict[str, Any] = dataclasses.field(default_factory=dict)
  runs: tuple[dict[str, Any], ...] = ()
  reads: tuple[int, ...] = dataclasses.field(
    default=(), metadata={"static": True}
  )

  def of(self, stream: str) -> Pair | None:
    """Keys and values of `stream` for all rows; None if not remembered."""
    if not self.reads or stream not in self.runs[0]:
      return None
    passes = [self.runs[i][stream] for i in self.reads]
    return trees.interleave(*passes)


NOTHING = KVCache()


class Fusion(nnx.Module):
  """Two independent towers; the interface and its neutral element."""

  def attend(
    self, qkv: dict[str, tuple[Array, Array, Array]], scene: FusionContext
  ) -> dict[str, Array]:
    """Self-attention, stream -> (b, n, k, e)."""
    tokens = {s: h * w for s, (_, h, w) in scene.grids.items()}
    return {
      s: scene.attention.within(s, *args, num_keys=scene.frames * tokens[s])
      for s, args in qkv.items()
    }

  def exchange(
    self, x: dict[str, Array], scene: FusionContext, memory: KVCache = NOTHING
  ) -> dict[str, Array]:
    """Stream -> (b, f, s, d) to add; a stream left out adds nothing."""
    return {}

  def contexts(self, dtype: Any) -> dict[str, Pair]:
    """Side -> keys and values of the context tokens that it reads."""
    return {}

  def remember(
    self, x: dict[str, Array], scene: FusionContext
  ) -> dict[str, Pair]:
    """Stream -> keys and values as the other side reads it."""
    return {}

  def shares(
    self, x: dict[str, Array], scene: FusionContext
  ) -> dict[str, Array]:
    """Side -> the part of its tokens' attention on the other stream, (b, n).

    The mean over heads; the rest is on the context. Of sides that read another.
    """
    return {}

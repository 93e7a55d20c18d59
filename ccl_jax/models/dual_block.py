"""A block of both streams, with the fusion between them.

The streams' blocks run side by side, and the fusion takes part in two places:

    self-attention     one or more of both streams, by `fusion.self_attentions`
    text               each stream reads the prompt
    exchange           both sides of the fusion read the same snapshot
    feed-forward

A stream may have no block of its own: the other stream's block updates it, and
it reads no text.
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple

from ccl_jax.array_types import Array
from ccl_jax.attention import Attention
from ccl_jax.models import ada_norm, qk_rope
from ccl_jax.models.block import Block, CrossAttentionInputs, StreamOps
from ccl_jax.models.fusion import NO_CACHE, Fusion, FusionContext, KVCache
from ccl_jax.models.fusion.base import Tokens


class EmbeddedInputs(NamedTuple):
  """The inputs of the layers, stream -> value each.

  Attributes:
    x: tokens of each stream.
    times: e and rows of `DiT.embed_time`.
    texts: inputs of cross-attention, of streams that have their own blocks.
    shared: inputs that all layers share.
  """

  x: Tokens
  times: dict[str, tuple[Array, Array]]
  texts: dict[str, CrossAttentionInputs]
  shared: FusionContext


def stream_ops(attention: Attention, stream: str) -> StreamOps:
  """Returns the operations of a stream's blocks on the attention's layout."""
  return StreamOps(
    functools.partial(attention.cross_attention, stream),
    ada_norm.modulator(attention.layout, stream),
    qk_rope.projector(attention.layout, stream),
  )


def dual_block(
  blocks: Mapping[str, Block],
  fusion: Fusion,
  x: Tokens,
  inputs: EmbeddedInputs,
  angles: Mapping[str, Array | None],
  ops: Mapping[str, StreamOps],
  cache: KVCache = NO_CACHE,
) -> tuple[Tokens, Tokens]:
  """Runs one dual block.

  Args:
    blocks: stream -> the block that updates it; others keep their tokens.
    x: tokens, (b, f, s, d).
    angles: stream -> RoPE of self-attention.
    ops: of `stream_ops`.
    cache: keys and values of context tokens and of references.

  Returns:
    Its output, and the snapshot that the fusion reads.
  """
  shared = inputs.shared
  mods = {s: p.modulate(inputs.times[s][1]) for s, p in blocks.items()}
  snapshot = x
  for adapted, attend in fusion.self_attentions(blocks):
    qkv = {
      s: p.qkv(snapshot[s], mods[s][0], angles[s], ops[s])
      for s, p in adapted.items()
    }
    attended = attend(qkv, shared)
    snapshot = snapshot | {
      s: p.add_attended(snapshot[s], attended[s], mods[s][0])
      for s, p in adapted.items()
    }
  snapshot |= {
    s: blocks[s].add_text(snapshot[s], text, ops[s])
    for s, text in inputs.texts.items()
  }
  added = fusion.exchange(snapshot, shared, cache)
  x = {s: a + added[s] if s in added else a for s, a in snapshot.items()}
  x |= {s: p.add_ffn(x[s], mods[s][1], ops[s]) for s, p in blocks.items()}
  return x, snapshot

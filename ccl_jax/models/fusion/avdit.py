"""Adapters of a frozen image transformer (AV-DiT, arXiv 2406.07686).

One stack of `image_dit` blocks, trained on images and frozen, runs over each
frame of the video and over the sound. All that learns of a layer is here:

    video   attention of each frame to itself, as the image model
            += temporal attention over the frames, at each token's place
    audio   attention to itself by q, k, v with LoRA
            += adapter: Linear(gelu(Linear(norm x))), `adapter_ratio` wide
    both    the same frozen attention again, over the tokens of both, by q, k, v
            with a LoRA of its own; its output through an adapter

in the order: attention, attention over both, what is added, feed-forward. All
outputs start at zero, except the LoRA's, whose B does: at first the video is
that of the image model, frame by frame.

A stream that may not see the other attends to itself twice, as if it were
alone. A reference is not detached: the adapters learn to read it.
"""

import jax.numpy as jnp
from flax import nnx

from ccl_jax.array_types import STREAMS, Array, Int, other
from ccl_jax.attention import Full, Mask
from ccl_jax.models.fusion import audio_tokens
from ccl_jax.models.fusion.adapters import Adapter, QKVLoRA, TemporalAttention
from ccl_jax.models.fusion.base import (
  NO_CACHE,
  Attend,
  FusionContext,
  KVCache,
  Pair,
)
from ccl_jax.models.fusion.frame_by_frame import FrameByFrame

QKV = dict[str, tuple[Array, Array, Array]]


class AVDiT(FrameByFrame):
  """All that learns of one layer.

  Args:
    widths, head_sizes: stream -> d, e; those of both are equal.
    adapter_ratio: width of the adapters over d.
    lora_rank: of both LoRA.
  """

  def __init__(
    self, widths: dict[str, int], head_sizes: dict[str, int], *, rngs, dtype,
    adapter_ratio: float = 0.25, lora_rank: int = 16,
  ):  # fmt: skip
    if len(widths) < 2 or len({*widths.values()}) > 1:
      raise ValueError(
        f"streams of widths {widths}: expected video and audio of the same"
        " width; see configs/avdit.py."
      )
    d, e = widths["video"], head_sizes["video"]
    if not 0 < adapter_ratio <= 4 or not 1 <= lora_rank <= d:
      raise ValueError(
        f"{adapter_ratio=}, {lora_rank=}: expected a ratio above 0, up to 4,"
        f" and a rank from 1 to {d}."
      )
    options = dict(rngs=rngs, dtype=dtype)
    hidden = max(1, round(d * adapter_ratio))
    self.temporal = TemporalAttention(d, e, **options)
    self.audio = Adapter(d, hidden, **options)
    self.audio_lora = QKVLoRA(d, lora_rank, **options)
    self.joint_lora = QKVLoRA(d, lora_rank, **options)
    self.joint_video, self.joint_audio = (
      Adapter(d, hidden, **options) for _ in STREAMS
    )

  def self_attentions(
    self, blocks: dict[str, nnx.Module]
  ) -> tuple[tuple[dict[str, nnx.Module], Attend], ...]:
    """Returns each stream's attention to itself, and that over both."""
    own = {
      s: self.audio_lora.added_to(p) if s == "audio" else p
      for s, p in blocks.items()
    }
    adapters = {"video": self.joint_video, "audio": self.joint_audio}
    joint = {
      s: adapters[s].after(self.joint_lora.added_to(p))
      for s, p in blocks.items()
    }
    return (own, self.attend), (joint, self.attend_jointly)

  def attend_jointly(self, qkv: QKV, shared: FusionContext) -> dict[str, Array]:
    """Attends over all tokens that a stream may see."""
    f, real = next(iter(shared.grids.values()))[0], shared.frames
    streams = [s for s in STREAMS if s in qkv]
    sizes = [qkv[s][0].shape[1] // f for s in streams]
    mask = Mask(Full(real * sum(sizes) if real < f else None))
    k, v = (
      audio_tokens.side_by_side({s: qkv[s][i] for s in streams}, f)
      for i in (1, 2)
    )
    attended = {}
    for s in streams:
      q, ids = qkv[s][0], audio_tokens.side_by_side(seen_by(s, qkv, shared), f)
      seen = audio_tokens.with_ids(mask, jnp.ones(q.shape[:2], jnp.int32), ids)
      attended[s] = shared.attention.cross_attention(s, q, k, v, seen)
    return attended

  def exchange(
    self, x: dict[str, Array], shared: FusionContext, cache: KVCache = NO_CACHE
  ) -> dict[str, Array]:
    """Returns temporal attention of the video, and the audio's adapter."""
    added = {}
    if "video" in x:
      added["video"] = self.temporal(x["video"], shared)
    if "audio" in x:
      added["audio"] = self.audio(x["audio"])
    return added

  def reference_kv(
    self, x: dict[str, Array], shared: FusionContext
  ) -> dict[str, Pair]:
    """Raises a ValueError: keys are not kept over the steps."""
    raise ValueError(
      "this model keeps no keys of a reference: pass --cache_reference=False"
      " (sampling.cache_reference in the config)."
    )


def seen_by(
  s: str, qkv: QKV, shared: FusionContext
) -> dict[str, Int[Array, "b m"]]:
  """Returns stream -> ids of its keys: 1 where `s` sees them."""
  sees = shared.route.sees[s] & shared.route.exchanges
  seen = {s: jnp.ones_like(sees), other(s): sees}
  ids = {
    o: jnp.broadcast_to(seen[o][:, None], k.shape[:2]).astype(jnp.int32)
    for o, (_, k, _) in qkv.items()
  }
  if "audio" in ids:
    padding = jnp.asarray(shared.audio_grid.is_padding)[None]
    ids["audio"] = jnp.where(padding, 2, ids["audio"])
  return ids

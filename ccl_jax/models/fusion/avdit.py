"""Adapters of a frozen image transformer (AV-DiT, arXiv 2406.07686).

One stack of `image_dit` blocks, trained on images and frozen, runs over each
frame of the video and over the sound. This module has the trainable parts of a
layer:

    video   attention of each frame to itself, as in the image model
            += temporal attention over the frames, at each token's place
    audio   attention to itself, with LoRA of q, k, v
            += adapter: Linear(gelu(Linear(norm x))), `adapter_ratio` wide
    both    the same frozen attention again, over the tokens of both streams in
            frames at most `window_radius` away, with another LoRA of q, k, v
            and RoPE by frame; its output goes through an adapter

The order is: attention, attention over both, the additions (+=), feed-forward.
All outputs start at zero, in LoRA the matrix B: at first the video is that of
the image model, frame by frame. The image model's positions do not depend on
the frame; without the RoPE, what is seen and what is heard could not be aligned
in time.

A stream that may not see the other one attends to itself twice, as if it were
alone. A reference is not detached: the adapters learn to read it.
"""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from ccl_jax.array_types import STREAMS, Array, Int, other
from ccl_jax.attention import Mask, Window
from ccl_jax.models import rope
from ccl_jax.models.fusion import audio_tokens
from ccl_jax.models.fusion.adapters import Adapter, QKVLoRA, TemporalAttention
from ccl_jax.models.fusion.base import (
  NO_CACHE,
  QKV,
  Attend,
  Fusion,
  FusionContext,
  KVCache,
  Tokens,
)


class FrameByFrame(Fusion):
  """An image model on frames that never meet; audio sees all of itself."""

  def attend(self, qkv: QKV, shared: FusionContext) -> dict[str, Array]:
    """Attends within each frame of the video, and over all of the audio."""
    audio = {s: x for s, x in qkv.items() if s == "audio"}
    attended = super().attend(audio, shared)
    if "video" in qkv:
      _, h, w = shared.grids["video"]
      frame = Mask(Window(h * w, h * w, radius=0))
      attend = shared.attention.cross_attention
      attended["video"] = attend("video", *qkv["video"], frame)
    return attended


class AVDiT(FrameByFrame):
  """The trainable parts of one layer.

  Args:
    widths, head_sizes: stream -> d, e; those of both are equal.
    adapter_ratio: width of the adapters over d.
    lora_rank: of both LoRA.
    window_radius: frames on each side that attention over both reads; all if it
      is as large as their number.
  """

  uncacheable = "this model keeps no keys of a reference"

  def __init__(
    self, widths: dict[str, int], head_sizes: dict[str, int], *, rngs, dtype,
    adapter_ratio: float = 0.25, lora_rank: int = 16, window_radius: int = 1,
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
    if window_radius < 0:
      raise ValueError(f"{window_radius=}: expected 0 or more frames.")
    self.window_radius, options = window_radius, dict(rngs=rngs, dtype=dtype)
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
    """Attends over the tokens of near frames that a stream may see."""
    f = shared.audio_grid.frames
    sizes = {s: q.shape[1] // f for s, (q, _, _) in qkv.items()}
    turned = {}  # queries and keys, by their frame
    for s in (s for s in STREAMS if s in qkv):
      q, k, v = qkv[s]
      frame = np.repeat(np.arange(f), sizes[s])
      angles = rope.sequence_angles(frame, q.shape[-1])
      turned[s] = rope.rotate(q, angles), rope.rotate(k, angles), v
    kv = {s: each[1:] for s, each in turned.items()}
    k, v = audio_tokens.side_by_side(kv, f)
    attended = {}
    for s, (q, _, _) in turned.items():
      window = Window(sizes[s], sum(sizes.values()), self.window_radius)
      ids = audio_tokens.side_by_side(seen_by(s, qkv, shared), f)
      ones = jnp.ones(q.shape[:2], jnp.int32)
      mask = Mask(window, q_segments=ones, k_segments=ids)
      attended[s] = shared.attention.cross_attention(s, q, k, v, mask)
    return attended

  def exchange(
    self, x: Tokens, shared: FusionContext, cache: KVCache = NO_CACHE
  ) -> Tokens:
    """Returns temporal attention of the video, and the audio's adapter."""
    added = {}
    if "video" in x:
      added["video"] = self.temporal(x["video"], shared)
    if "audio" in x:
      added["audio"] = self.audio(x["audio"])
    return added


def seen_by(
  s: str, qkv: QKV, shared: FusionContext
) -> dict[str, Int[Array, "b m"]]:
  """Returns stream -> ids of its keys: 1 where `s` sees them, 2 is padding."""
  sees = shared.route.sees[s] & shared.route.exchanges
  seen = {s: jnp.ones_like(sees), other(s): sees}
  ids = {
    o: jnp.broadcast_to(seen[o][:, None], k.shape[:2]).astype(jnp.int32)
    for o, (_, k, _) in qkv.items()
  }
  f = shared.audio_grid.frames
  after_end = np.arange(f) >= shared.frames
  for o, x in ids.items():
    padding = np.repeat(after_end, x.shape[1] // f)
    if o == "audio":
      padding = padding | shared.audio_grid.is_padding
    ids[o] = jnp.where(jnp.asarray(padding)[None], 2, x)
  return ids

"""A layer in each block by which a frame of video attends to its audio.

With x the video tokens of a frame, y its audio tokens and z = y or [x; y],

    x += W_o softmax(q k^T / sqrt(e)) v,   q = rope(norm(W_q ln(x)))       (1)
    k = rope(norm(W_k ln(z))),  v = W_v ln(z)

and, if audio is updated, y += the same with q of y. W_o starts at zero, so a
new model equals the video stream alone. Audio tokens take part in nothing else:
they see the video only through eq. 1.
"""

import jax.numpy as jnp
import numpy as np

from ccl_jax.array_types import STREAMS, Array, Float
from ccl_jax.attention import Mask, Window
from ccl_jax.models import qk_rope
from ccl_jax.models.fusion import audio_tokens
from ccl_jax.models.fusion.base import (
  NO_CACHE,
  Fusion,
  FusionContext,
  KVCache,
  Pair,
  Tokens,
)
from ccl_jax.models.fusion.cca import CrossAttention


class FrameAttention(Fusion):
  """Attention of each frame's video tokens, and what it reads.

  Args:
    widths: stream -> d; both are equal.
    head_sizes: stream -> e.
    rope_audio: see `audio_tokens.audio_angles`.
    reads_video: z = [x; y] in eq. 1, else y.
    updates_audio: audio tokens attend too, and go on to the next block.
    references: reads pictures, as frames of the video without sound.
  """

  updated = ("video",)

  def __init__(
    self, widths: dict[str, int], head_sizes: dict[str, int], rope_audio: str,
    *, reads_video: bool, updates_audio: bool, references: bool = False, rngs,
    dtype,
  ):  # fmt: skip
    audio_tokens.check_rope(rope_audio)
    self.reads_references = references
    self.reads_video, self.updates_audio = reads_video, updates_audio
    self.uncacheable = audio_tokens.UNCACHEABLE if updates_audio else ""
    self.rope_audio, self.head_size = rope_audio, head_sizes["video"]
    self.video = CrossAttention(
      widths["video"], widths["audio"], self.head_size, rngs=rngs, dtype=dtype
    )

  def angles_of(self, shared: FusionContext) -> dict[str, Array]:
    """Returns positions of pictures beside the video's."""
    if shared.references is None:
      return {}
    return {"video": audio_tokens.video_angles(shared, self.head_size)}

  def exchange(
    self, x: Tokens, shared: FusionContext, cache: KVCache = NO_CACHE
  ) -> Tokens:
    """Attends within frames; video without audio attends to itself, if ever."""
    if "video" not in x:
      return {}
    read = STREAMS if self.reads_video else ("audio",)
    kv = {s: self.kv(s, x[s], shared) for s in read if s in x}
    if "audio" not in x and (audio := cached_audio(cache, shared)):
      kv["audio"] = audio
    if not kv:
      return {}
    readers = x if self.updates_audio else {"video": x["video"]}
    return {s: self.update(s, y, kv, shared) for s, y in readers.items()}

  def update(
    self,
    name: str,
    x: Float[Array, "b f s d"],
    kv: dict[str, Pair],
    shared: FusionContext,
  ) -> Float[Array, "b f s d"]:
    """Returns what eq. 1 adds to a stream."""
    queries, keys = audio_tokens.ids_of(shared)
    _, frames, per_frame, _ = x.shape
    k, v = audio_tokens.side_by_side(kv, frames)
    ids = audio_tokens.side_by_side({s: keys[s] for s in kv}, frames)
    window = Window(per_frame, k.shape[1] // frames, radius=0)
    mask = Mask(window, q_segments=queries[name], k_segments=ids)
    project = qk_rope.projector(shared.attention.layout, name)
    y, angles = self.norm(name)(x), self.angles(name, shared)
    q = self.video.query(y, angles, project)
    out = shared.attention.cross_attention(name, q, k, v, mask)
    # Audio alone is nothing to read, and with it switched off no layer at all.
    gate = shared.route.exchanges
    gate = gate if self.reads_video else audio_tokens.meets(shared)
    update = self.video.attention.out(out).reshape(x.shape)
    gate = gate[:, None, None, None]
    if shared.references is not None and not self.reads_video:
      is_clip = np.arange(frames) < shared.clip_frames
      gate = gate & is_clip[None, :, None, None]
    return jnp.where(gate, update, 0)

  def kv(
    self, name: str, x: Float[Array, "b f s d"], shared: FusionContext
  ) -> Pair:
    """Returns keys and values of a stream, by projections that both share."""
    return self.video.kv(self.norm(name)(x), self.angles(name, shared))

  def norm(self, name: str):
    """Returns the norm of a stream."""
    return {"video": self.video.norm, "audio": self.video.norm_other}[name]

  def angles(self, name: str, shared: FusionContext) -> Float[Array, "n half"]:
    """Returns RoPE of a stream's tokens."""
    e = self.head_size
    if name == "audio":
      return audio_tokens.audio_angles(self.rope_audio, shared, e)
    return audio_tokens.video_angles(shared, e)

  def reference_kv(self, x: Tokens, shared: FusionContext) -> dict[str, Pair]:
    """Returns keys and values of the audio, which is never updated."""
    layout, pair = shared.attention.layout, self.kv("audio", x["audio"], shared)
    return {"audio": tuple(layout.constrain(a, "audio/heads") for a in pair)}


def cached_audio(cache: KVCache, shared: FusionContext) -> Pair | None:
  """Returns keys and values of the audio, with no sound beside pictures."""
  pair = cache.of("audio")
  if pair is None or shared.references is None:
    return pair
  grid = shared.audio_grid
  missing = grid.frames * grid.slots - pair[0].shape[1]
  ends = (0, 0), (0, missing), (0, 0), (0, 0)
  return tuple(jnp.pad(a, ends) for a in pair)

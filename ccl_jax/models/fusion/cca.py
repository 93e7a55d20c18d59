"""Cross-modal context attention (CCL, sections 4.1 and 4.2).

One side reads the other, here video (width d) reading audio (width d_o):

    q = rope(norm(W_q ln(x))),  k = rope(norm(W_k ln_o(y))),  v = W_v ln_o(y)
    k0 = norm(W_k C),  v0 = W_v C          C: learnable context tokens (LCT)
    x += W_o softmax(q [k0; k]^T / sqrt(e)) [v0; v]              (Eq. 3, 4)

W_o starts at zero, so that a new fusion equals two independent towers.

TARP: audio latent j has position j / c on the axis of video frames. A frame
sees the audio of itself and of its neighbours (window 3), an audio latent the
video of its own frame (window 1); all tokens see the LCT. The c latents of a
frame are those whose middle falls in its span; their number varies if c is not
an integer, see `models.audio_grid`. `attention.Window` shows how video reads
audio for f = 4, c = 2, s = 1 and one LCT.

DCR: a sample whose route says "does not see" keeps only the LCT column.
Without LCT or without DCR the same samples are gated instead: x += g * (...)
with g = 0 for them (Eq. 1), the paper's baseline.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ccl_jax.array_types import STREAMS, Array, Float, audio_starts, other
from ccl_jax.attention import Full, Mask, Window
from ccl_jax.config import check_choice
from ccl_jax.models import layers, qk_rope, rope
from ccl_jax.models.block import flatten
from ccl_jax.models.fusion.base import (
  NO_CACHE,
  Fusion,
  FusionContext,
  KVCache,
  Pair,
  Tokens,
)
from ccl_jax.ops.norms import LayerNorm

POSITIONS = ("index", "seconds", "fine", "unscaled")
_AUDIO_RATE = 31.25  # latents a second


def frame_times(
  positions: str, f: int, c: float | int, fps: float
) -> dict[str, Float[np.ndarray, " n"]]:
  """Returns positions of frames and audio latents on the time axis, in frames.

  "index": frame i at i, latent j at j / c. "seconds": both at their middle:
  frame 0 covers one pixel frame, frame i >= 1 covers 4i-3 .. 4i, and latent j
  covers 1 / 31.25 s. "fine": as "seconds", but counted in audio latents:
  the fastest channel then turns by 1 and not by 1 / c from one latent to the
  next, so that a small model can tell them apart. "unscaled": latent j at j
  (no TARP).
  """
  frame = np.arange(f, dtype=float)
  latent = np.arange(audio_starts(f, c)[-1], dtype=float)
  if positions == "index":
    return {"video": frame, "audio": latent / c}
  if positions in ("seconds", "fine"):
    middle = np.where(frame == 0, 0.125, frame - 0.25)
    # c may be the whole number next to what the rates give; else it is exact.
    exact = 4 * _AUDIO_RATE / fps
    per_frame = exact if c == round(exact) else c
    unit = per_frame if positions == "fine" else 1.0
    return {"video": middle * unit, "audio": (latent + 0.5) / per_frame * unit}
  return {"video": frame, "audio": latent}


class CrossAttention(nnx.Module):
  """One side: a stream of width d reads one of width d_other.

  Args:
    num_context: context tokens (LCT), which it reads beside the other stream.
    radius: frames to each side in its window on the other stream.
  """

  def __init__(
    self, d: int, d_other: int, head_size: int, num_context: int = 0,
    radius: int = 0, *, rngs, dtype,
  ):  # fmt: skip
    self.num_context, self.radius = num_context, radius
    self.norm = LayerNorm(d)
    self.norm_other = LayerNorm(d_other)
    self.attention = layers.AttentionProjections(
      d, d_other, head_size, rngs=rngs, dtype=dtype, out_init=layers.zeros
    )
    tokens = 0.02 * jax.random.normal(rngs.params(), (num_context, d_other))
    self.context = nnx.Param(tokens)

  def query(
    self, y: Float[Array, "b f s d"], angles: Array, project: Callable
  ) -> Float[Array, "b n k e"]:
    """Returns queries of normalised tokens; see `qk_rope.projector`."""
    p = self.attention
    return project(p.q, p.norm_q, flatten(y), p.head_size, angles)

  def context_kv(self, dtype: Any) -> Pair:
    """Returns keys and values of the context tokens, (1, r, k, e), no RoPE."""
    p, context = self.attention, self.context[...].astype(dtype)[None]
    return p.key(context), p.value(context)

  def kv(self, y: Float[Array, "b f r d"], angles: Array) -> Pair:
    """Returns keys and values of normalised tokens.

    Tokens are normalised frame by frame: libtpu 0.0.51 cannot lay out the
    gradient of a norm over all tokens as one axis.
    """
    p, y = self.attention, flatten(y)
    return rope.rotate(p.key(y), angles), p.value(y)


class CCA(Fusion):
  """Both sides, with the paper's three parts to switch (its Table 2).

  Args:
    widths: stream -> d.
    head_sizes: stream -> e; a side attends in its own head geometry.
    num_audio_lct: LCT that replace audio (read by video); 0 for none.
    num_video_lct: LCT that replace video (read by audio); 0 for none.
    tarp: aligned positions and windows; without, unscaled and full.
    dcr: routing; without, a gate.
    positions: see `frame_times`.
    audio_window_radius: frames to each side in video's window on audio.
    video_window_radius: frames to each side in audio's window on video.
    fps: of the video, for positions="seconds".
  """

  def __init__(
    self, widths: dict[str, int], head_sizes: dict[str, int], *, rngs, dtype,
    num_audio_lct: int = 8, num_video_lct: int = 128, tarp: bool = True,
    dcr: bool = True, positions: str = "index", audio_window_radius: int = 1,
    video_window_radius: int = 0, fps: float = 25.0,
  ):  # fmt: skip
    check_choice("model.fusion.positions", positions, POSITIONS)
    numbers = num_audio_lct, num_video_lct, audio_window_radius
    if min(*numbers, video_window_radius) < 0:
      raise ValueError(
        f"model.fusion has {num_audio_lct=}, {num_video_lct=},"
        f" {audio_window_radius=}, {video_window_radius=}: expected at least 0."
      )
    self.positions = positions if tarp else "unscaled"
    self.tarp, self.dcr, self.fps = tarp, dcr, fps
    self.video, self.audio = (
      CrossAttention(
        widths[s], widths[other(s)], head_sizes[s], num_lct, radius, rngs=rngs,
        dtype=dtype,
      )
      for s, num_lct, radius in (
        ("video", num_audio_lct, audio_window_radius),
        ("audio", num_video_lct, video_window_radius),
      )
    )  # fmt: skip

  def exchange(
    self, x: Tokens, shared: FusionContext, cache: KVCache = NO_CACHE
  ) -> Tokens:
    """Runs both sides on the snapshot x; a lone stream reads its LCT."""
    updates = {s: self.update(s, x, shared, cache) for s in x}
    return {s: update for s, update in updates.items() if update is not None}

  def update(
    self, name: str, x: Tokens, shared: FusionContext, cache: KVCache
  ) -> Float[Array, "b f s d"] | None:
    """Returns what a side adds to itself; None if it has nothing to read."""
    is_routed, side = self.is_routed(name), getattr(self, name)
    other_kv = self.other_kv(name, x, shared, cache)
    if other_kv is None and not is_routed:
      return None
    context_kv = cache.contexts.get(name) or side.context_kv(x[name].dtype)
    attended = self.attend_to(name, x[name], context_kv, other_kv, shared)
    update = side.attention.out(attended).reshape(x[name].shape)
    # Routed samples that see nothing read their LCT; gated ones add nothing.
    gate = shared.route.exchanges
    gate = gate if is_routed else gate & shared.route.sees[name]
    return jnp.where(gate[:, None, None, None], update, 0)

  def other_kv(
    self, name: str, x: Tokens, shared: FusionContext, cache: KVCache
  ) -> Pair | None:
    """Returns keys and values of the other stream, from x or the cache."""
    source = other(name)
    if source not in x:
      return cache.of(source)
    # A reference gets no gradient through the stream that reads it.
    y, generated = x[source], shared.route.is_generated[source]
    y = jnp.where(generated[:, None, None, None], y, jax.lax.stop_gradient(y))
    return self.kv_of(source, y, shared)

  def kv_of(
    self, source: str, y: Float[Array, "b f r d"], shared: FusionContext
  ) -> Pair:
    """Returns keys and values of a stream, as the other side reads it."""
    name = other(source)
    side, angles = getattr(self, name), self.angles(name, source, shared)
    return side.kv(side.norm_other(y), angles)

  def attend_to(
    self,
    name: str,
    x: Float[Array, "b f s d"],
    context_kv: Pair,
    other_kv: Pair | None,
    shared: FusionContext,
  ) -> Float[Array, "b n k e"]:
    """Attends to context tokens and the other stream under one softmax."""
    pairs = [context_kv] if other_kv is None else [context_kv, other_kv]
    num_other = sum(k.shape[1] for k, _ in pairs[1:])
    mask = self.mask(name, num_other, shared)
    project = qk_rope.projector(shared.attention.layout, name)
    side, angles = getattr(self, name), self.angles(name, name, shared)
    q = side.query(side.norm(x), angles, project)
    # The context tokens have a batch of 1: the same for all samples.
    k, v = (
      jnp.concatenate(
        [jnp.broadcast_to(a, (len(x), *a.shape[1:])) for a in each], 1
      )
      for each in zip(*pairs, strict=True)
    )
    return shared.attention.cross_attention(name, q, k, v, mask=mask)

  def mask(self, name: str, num_other: int, shared: FusionContext) -> Mask:
    """Returns the mask on context tokens and `num_other` others.

    TARP's window or all frames; if routed, DCR's columns; no padded frames.
    """
    if not num_other:
      return Mask()
    side, (f, h, w) = getattr(self, name), shared.grids[name]
    num_context, per_frame = side.num_context, num_other // f
    sees, mask = shared.route.sees[name], Mask()
    window = Window(h * w, per_frame, side.radius, num_context)
    if self.is_routed(name):
      mask = Mask.routed(window, sees, f * h * w, num_context + num_other)
    if shared.frames < f:
      length = num_context + shared.frames * per_frame
      mask = mask._replace(k_lengths=jnp.full(len(sees), length))
    if name == "video" and not shared.audio_grid.is_full:
      padding = np.pad(shared.audio_grid.is_padding, (num_context, 0))
      mask = mask.hide(padding, len(sees), f * h * w)
    # DCR's segments hold for both patterns: without TARP, all frames are seen.
    return mask._replace(pattern=window if self.tarp else Full())

  def is_routed(self, name: str) -> bool:
    """Returns whether routes close columns of the mask, or else a gate."""
    return self.dcr and getattr(self, name).num_context > 0

  def angles(self, name: str, of: str, shared: FusionContext) -> Array:
    """Returns RoPE of the tokens of stream `of`, for the heads of a side."""
    e = getattr(self, name).attention.head_size
    (f, h, w), audio = shared.grids[of], shared.audio_grid
    times = frame_times(self.positions, f, audio.per_frame, self.fps)[of]
    if of == "video":
      return rope.video_angles(times, h, w, e)
    return rope.time_angles(times[audio.latents], e)

  def attention_shares(
    self, x: Tokens, shared: FusionContext
  ) -> dict[str, Array]:
    """Attends to values that are 0 in the context, else 1; see `Fusion`."""
    shares = {}
    for name in x:
      kv = self.other_kv(name, x, shared, NO_CACHE)
      if kv is None:
        continue
      k0, v0 = getattr(self, name).context_kv(x[name].dtype)
      zeros, ones = jnp.zeros_like(v0), jnp.ones_like(kv[1])
      share = self.attend_to(name, x[name], (k0, zeros), (kv[0], ones), shared)
      share = share.astype(jnp.float32).mean((2, 3))
      shares[name] = jnp.where(shared.route.sees[name][:, None], share, 0)
    return shares

  def context_kv(self, dtype: Any) -> dict[str, Pair]:
    """Returns keys and values of both sides' LCT, see `Fusion`."""
    return {name: getattr(self, name).context_kv(dtype) for name in STREAMS}

  def reference_kv(self, x: Tokens, shared: FusionContext) -> dict[str, Pair]:
    """Returns keys and values of each stream, see `Fusion`."""
    constrain = shared.attention.layout.constrain
    return {
      s: tuple(constrain(a, f"{s}/heads") for a in self.kv_of(s, y, shared))
      for s, y in x.items()
    }

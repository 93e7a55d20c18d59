"""Cross-modal context attention (CCL, sections 4.1 and 4.2).

One side reads the other, here video (width d) reading audio (width d_o):

    q = rope(norm(W_q ln(x))),  k = rope(norm(W_k ln_o(y))),  v = W_v ln_o(y)
    k0 = norm(W_k C),  v0 = W_v C          C: learnable context tokens (LCT)
    x += W_o softmax(q [k0; k]^T / sqrt(e)) [v0; v]              (Eq. 3, 4)

W_o starts at zero, so that a new fusion equals two independent towers.

TARP: audio latent j sits at j / c on the axis of video frames, and a frame
sees the audio of the frames next to it (window 3), an audio latent the video
of its own frame (window 1); everyone sees the LCT. For f = 4, c = 2, s = 1 and
one LCT, video reads audio as

    frame  LCT | a0 a1 | a2 a3 | a4 a5 | a6 a7
      0     1  |  1  1 |  1  1 |  0  0 |  0  0
      1     1  |  1  1 |  1  1 |  1  1 |  0  0
      2     1  |  0  0 |  1  1 |  1  1 |  1  1
      3     1  |  0  0 |  0  0 |  1  1 |  1  1

DCR: a sample whose route says "does not see" keeps only the LCT column.
Without LCT or without DCR the same samples are gated instead: x += g * (...)
with g = 0 for them (Eq. 1), the paper's baseline.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ccl_jax.array_types import STREAMS, Array, Float, Route, other
from ccl_jax.attention import Full, Mask, Window
from ccl_jax.layers import LayerNorm
from ccl_jax.models import layers, rope
from ccl_jax.models.block import flatten
from ccl_jax.models.fusion.base import (
  NOTHING,
  Fusion,
  FusionContext,
  KVCache,
  Pair,
)

POSITIONS = ("index", "seconds", "fine", "unscaled")


def frame_times(
  positions: str, f: int, c: int, fps: float, rate: float = 31.25
) -> dict[str, Float[np.ndarray, " n"]]:
  """Where frames and audio latents sit on the time axis, in video frames.

  "index": frame i at i, latent j at j / c. "seconds": both at their middle:
  frame 0 covers one pixel frame, frame i >= 1 covers 4i-3 .. 4i, and latent j
  covers 1 / rate seconds. "fine": as "seconds", but counted in audio latents:
  the fastest channel then turns by 1 and not by 1 / c from one latent to the
  next, so that a small model can tell them apart. "unscaled": latent j at j
  (no TARP).

  Raises:
    ValueError: an unknown name.
  """
  frame, latent = np.arange(f, dtype=float), np.arange(c * f, dtype=float)
  if positions == "index":
    return {"video": frame, "audio": latent / c}
  if positions in ("seconds", "fine"):
    middle = np.where(frame == 0, 0.125, frame - 0.25)
    per_frame = 4 * rate / fps
    unit = per_frame if positions == "fine" else 1.0
    return {"video": middle * unit, "audio": (latent + 0.5) / per_frame * unit}
  if positions == "unscaled":
    return {"video": frame, "audio": latent}
  raise ValueError(f"{positions=}: expected one of {', '.join(POSITIONS)}.")


class CrossAttention(nnx.Module):
  """One side: a stream of width d reads one of width d_other."""

  def __init__(
    self, d: int, d_other: int, head_size: int, num_context: int, *, rngs, dtype
  ):
    self.norm = LayerNorm(d)
    self.norm_other = LayerNorm(d_other)
    self.attention = layers.AttentionProjections(
      d, d_other, head_size, rngs=rngs, dtype=dtype, out_init=layers.zeros
    )
    tokens = 0.02 * jax.random.normal(rngs.params(), (num_context, d_other))
    self.context = nnx.Param(tokens)

  def context_keys(self, dtype: Any) -> Pair:
    """Of the context tokens, (1, r, k, e): without RoPE, for all samples."""
    p, context = self.attention, self.context[...].astype(dtype)[None]
    return p.key(context), p.value(context)

  def keys(self, y: Float[Array, "b f r d"], angles: Array) -> Pair:
    """Of the other stream."""
    # Frame by frame: libtpu 0.0.51 cannot lay out the gradient of a norm over
    # all tokens as one axis.
    p, y = self.attention, flatten(self.norm_other(y))
    return rope.rotate(p.key(y), angles), p.value(y)

  def attend(
    self,
    x: Float[Array, "b f s d"],
    angles: Array,
    parts: Sequence[Pair],
    across: Callable[..., Array],
  ) -> Float[Array, "b n k e"]:
    """What x reads, attending by `across(q, k, v)`.

    parts: keys and values, one behind the other; those with a batch of 1 are
      there for all samples.
    """
    b = len(x)
    q = rope.rotate(self.attention.query(flatten(self.norm(x))), angles)
    k, v = (
      jnp.concatenate([jnp.broadcast_to(a, (b, *a.shape[1:])) for a in each], 1)
      for each in zip(*parts, strict=True)
    )
    return across(q, k, v)


class CCA(Fusion):
  """Both sides, with the paper's three parts to switch (its Table 2).

  Args:
    widths: stream -> d.
    head_sizes: stream -> e; a side attends in its own head geometry.
    num_audio_lct: LCT that stand for audio (read by video); 0 for none.
    num_video_lct: LCT that stand for video (read by audio); 0 for none.
    tarp: aligned positions and windows; without, unscaled and full.
    dcr: routing; without, a gate.
    positions: see `frame_times`.
    audio_window_radius, video_window_radius: frames to each side that the window on audio
      (read by video) and on video (read by audio) reaches.
    fps: of the video, for positions="seconds".
  """

  def __init__(
    self, widths: dict[str, int], head_sizes: dict[str, int], *, rngs, dtype,
    num_audio_lct: int = 8, num_video_lct: int = 128, tarp: bool = True,
    dcr: bool = True, positions: str = "index", audio_window_radius: int = 1,
    video_window_radius: int = 0, fps: float = 25.0,
  ):  # fmt: skip
    if positions not in POSITIONS:
      raise ValueError(f"{positions=}: expected one of {POSITIONS}.")
    self.positions = positions if tarp else "unscaled"
    self.tarp, self.dcr, self.fps = tarp, dcr, fps
    self.head_sizes = tuple(head_sizes[s] for s in STREAMS)
    self.halves = (audio_window_radius, video_window_radius)
    self.num_context = (num_audio_lct, num_video_lct)
    for i, side in enumerate(STREAMS):
      d, d_other = widths[side], widths[other(side)]
      reader = CrossAttention(
        d, d_other, head_sizes[side], self.num_context[i], rngs=rngs,
        dtype=dtype,
      )  # fmt: skip
      setattr(self, side, reader)

  def is_routed(self, side: str) -> bool:
    """Whether routes close columns of what `side` reads, or else a gate."""
    return self.dcr and self.num_context[STREAMS.index(side)] > 0

  def angles(self, side: str, of: str, scene: FusionContext) -> Array:
    """RoPE of the tokens of stream `of`, in the head geometry of `side`."""
    e = self.head_sizes[STREAMS.index(side)]
    # Where the frames of a video alone sit does not depend on c.
    _, _, c = scene.grids.get("audio", (0, 1, 1))
    f, h, w = scene.grids[of]
    times = frame_times(self.positions, f, c, self.fps)[of]
    if of == "video":
      return rope.video_angles(times, h, w, e)
    return rope.time_angles(times, e)

  def mask(self, side: str, num_far: int, scene: FusionContext) -> Mask:
    """TARP's window and, if routed, DCR's columns, on context and `num_far`.

    Without TARP everyone sees every frame; frames of padding nobody sees.
    """
    if not num_far:
      return Mask()
    i, (f, h, w) = STREAMS.index(side), scene.grids[side]
    context, per_frame = self.num_context[i], num_far // f
    sees = scene.route.sees[side]
    window = Window(h * w, per_frame, self.halves[i], context)
    pattern = window if self.tarp else Full()
    mask = Mask(pattern)
    if self.is_routed(side):
      mask = Mask.routed(window, sees, f * h * w, context + num_far)
      mask = mask._replace(pattern=pattern)
    if scene.frames < f:
      lengths = jnp.full(len(sees), context + scene.frames * per_frame)
      mask = mask._replace(k_lengths=lengths)
    return mask

  def exchange(
    self, x: dict[str, Array], scene: FusionContext, memory: KVCache = NOTHING
  ) -> dict[str, Array]:
    """Both sides read the snapshot x; a lone stream reads its LCT."""
    added = {}
    for side in x:
      far = self.far_keys(side, x, scene, memory)
      if far or self.is_routed(side):
        added[side] = self.read(side, x[side], far, scene, memory)
    return added

  def far_keys(
    self, side: str, x: dict[str, Array], scene: FusionContext, memory: KVCache
  ) -> tuple[Pair, ...]:
    """Of the other stream, if it is here or remembered."""
    far = other(side)
    if far in x:
      y = self.detached(x, far, scene.route)
      return (getattr(self, side).keys(y, self.angles(side, far, scene)),)
    remembered = memory.of(far)
    return () if remembered is None else (remembered,)

  def read(
    self,
    side: str,
    x: Float[Array, "b f s d"],
    far: tuple[Pair, ...],
    scene: FusionContext,
    memory: KVCache,
  ) -> Float[Array, "b f s d"]:
    """What `side` adds to itself, from its context and `far`."""
    on = scene.route.exchanges
    if side in memory.contexts:
      near = memory.contexts[side]
    else:
      near = getattr(self, side).context_keys(x.dtype)
    attended = self.attended(side, x, (near, *far), scene)
    update = getattr(self, side).attention.out(attended).reshape(x.shape)
    on = on if self.is_routed(side) else on & scene.route.sees[side]
    return jnp.where(on[:, None, None, None], update, 0)

  def attended(
    self,
    side: str,
    x: Float[Array, "b f s d"],
    parts: Sequence[Pair],
    scene: FusionContext,
  ) -> Float[Array, "b n k e"]:
    """What `side` reads of the context, the first of `parts`, and the rest."""
    num_far = sum(k.shape[1] for k, _ in parts[1:])
    mask = self.mask(side, num_far, scene)
    across = functools.partial(scene.attention.across, side, mask=mask)
    angles = self.angles(side, side, scene)
    return getattr(self, side).attend(x, angles, parts, across)

  def shares(
    self, x: dict[str, Array], scene: FusionContext
  ) -> dict[str, Array]:
    """See `Fusion`: attention to values that are 0 in the context, else 1."""
    found = {}
    for side in x:
      for k, v in self.far_keys(side, x, scene, NOTHING):
        k0, v0 = getattr(self, side).context_keys(x[side].dtype)
        parts = ((k0, jnp.zeros_like(v0)), (k, jnp.ones_like(v)))
        share = self.attended(side, x[side], parts, scene)
        share = share.astype(jnp.float32).mean((2, 3))
        found[side] = jnp.where(scene.route.sees[side][:, None], share, 0)
    return found

  def contexts(self, dtype: Any) -> dict[str, Pair]:
    """Side -> keys and values of the LCT that it reads."""
    return {side: getattr(self, side).context_keys(dtype) for side in STREAMS}

  def remember(
    self, x: dict[str, Array], scene: FusionContext
  ) -> dict[str, Pair]:
    """Stream -> its keys and values as the other side reads it."""
    layout, kept = scene.attention.layout, {}
    for s, y in x.items():
      side = other(s)
      pair = getattr(self, side).keys(y, self.angles(side, s, scene))
      kept[s] = tuple(layout.constrain(a, f"{s}/heads") for a in pair)
    return kept

  def detached(self, x: dict[str, Array], far: str, route: Route) -> Array:
    """The far stream, cut from the gradient where it is a reference."""
    keep = route.is_generated[far][:, None, None, None]
    return jnp.where(keep, x[far], jax.lax.stop_gradient(x[far]))

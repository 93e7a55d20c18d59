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
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ccl_jax.attention import Full, Mask, Window
from ccl_jax.models import layers, rope
from ccl_jax.models.block import flatten
from ccl_jax.models.fusion.base import Fusion, Grid, Scene
from ccl_jax.types import STREAMS, Array, Bool, Float, Route, other

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


class Reader(nnx.Module):
  """One side: a stream of width d reads one of width d_other."""

  def __init__(
    self, d: int, d_other: int, head_size: int, num_context: int, *, rngs, dtype
  ):
    self.norm = layers.LayerNorm(d)
    self.norm_other = layers.LayerNorm(d_other)
    self.attention = layers.Projections(
      d, d_other, head_size, rngs=rngs, dtype=dtype, out_init=layers.zeros
    )
    tokens = 0.02 * jax.random.normal(rngs.params(), (num_context, d_other))
    self.context = nnx.Param(tokens)

  def keys_values(
    self, y: Float[Array, "b m d"] | None, angles: Array | None, b: int, dtype
  ) -> tuple[Float[Array, "b r k e"], Float[Array, "b r k e"]]:
    """[context; y]: the context once for the batch, and without RoPE.

    y is normalised.
    """
    p, context = self.attention, self.context[...].astype(dtype)[None]
    parts = [(p.key(context), p.value(context))]
    parts = [
      [jnp.broadcast_to(a, (b, *a.shape[1:])) for a in pair] for pair in parts
    ]
    if y is not None:
      parts.append((rope.rotate(p.key(y), angles), p.value(y)))
    return tuple(jnp.concatenate(a, 1) for a in zip(*parts, strict=True))

  def __call__(
    self,
    x: Float[Array, "b f s d"],
    y: Float[Array, "b f r d2"] | None,
    angles: tuple[Array, Array | None],
    across: Callable[..., Array],
  ) -> Float[Array, "b f s d"]:
    """What x adds to itself, attending by `across(q, k, v)`.

    y None leaves only the context tokens.
    """
    p = self.attention
    q = rope.rotate(p.query(flatten(self.norm(x))), angles[0])
    # Frame by frame: libtpu 0.0.51 cannot lay out the gradient of a norm over
    # all tokens as one axis.
    y = None if y is None else flatten(self.norm_other(y))
    k, v = self.keys_values(y, angles[1], len(x), x.dtype)
    return p.out(across(q, k, v)).reshape(x.shape)


class CCA(Fusion):
  """Both sides, with the paper's three parts to switch (its Table 2).

  Args:
    widths: stream -> d.
    head_sizes: stream -> e; a side attends in its own head geometry.
    audio_context: LCT that stand for audio (read by video); 0 for none.
    video_context: LCT that stand for video (read by audio); 0 for none.
    tarp: aligned positions and windows; without, unscaled and full.
    dcr: routing; without, a gate.
    positions: see `frame_times`.
    audio_half, video_half: frames to each side that the window on audio
      (read by video) and on video (read by audio) reaches.
    fps: of the video, for positions="seconds".
  """

  def __init__(
    self, widths: dict[str, int], head_sizes: dict[str, int], *, rngs, dtype,
    audio_context: int = 8, video_context: int = 128, tarp: bool = True,
    dcr: bool = True, positions: str = "index", audio_half: int = 1,
    video_half: int = 0, fps: float = 25.0,
  ):  # fmt: skip
    if positions not in POSITIONS:
      raise ValueError(f"{positions=}: expected one of {POSITIONS}.")
    self.positions = positions if tarp else "unscaled"
    self.tarp, self.dcr, self.fps = tarp, dcr, fps
    self.head_sizes = tuple(head_sizes[s] for s in STREAMS)
    self.halves = (audio_half, video_half)
    self.num_context = (audio_context, video_context)
    for i, side in enumerate(STREAMS):
      d, d_other = widths[side], widths[other(side)]
      reader = Reader(
        d, d_other, head_sizes[side], self.num_context[i], rngs=rngs,
        dtype=dtype,
      )  # fmt: skip
      setattr(self, side, reader)

  def angles(self, side: str, of: str, grid: Grid, c: int) -> Array:
    """RoPE of the tokens of stream `of`, in the head geometry of `side`."""
    e = self.head_sizes[STREAMS.index(side)]
    f, h, w = grid
    times = frame_times(self.positions, f, c, self.fps)[of]
    if of == "video":
      return rope.video_angles(times, h, w, e)
    return rope.time_angles(times, e)

  def mask(
    self,
    side: str,
    x: Array,
    y: Array | None,
    sees: Bool[Array, " b"],
    frames: int,
  ) -> Mask:
    """TARP's window and, if routed, DCR's columns.

    Without TARP everyone sees every frame; frames of padding nobody sees.
    """
    if y is None:
      return Mask()
    i = STREAMS.index(side)
    (b, f, s, _), per_frame, context = x.shape, y.shape[2], self.num_context[i]
    window = Window(s, per_frame, self.halves[i], context)
    pattern = window if self.tarp else Full()
    mask = Mask(pattern)
    if self.dcr and context:
      mask = Mask.routed(window, sees, f * s, context + f * per_frame)
      mask = mask._replace(pattern=pattern)
    if frames < f:
      lengths = jnp.full(b, context + frames * per_frame)
      mask = mask._replace(k_lengths=lengths)
    return mask

  def exchange(self, x: dict[str, Array], scene: Scene) -> dict[str, Array]:
    """Both sides read the snapshot x; a lone stream reads its LCT."""
    added, grids, route = {}, scene.grids, scene.route
    for i, side in enumerate(STREAMS):
      routed = self.dcr and self.num_context[i] > 0
      far = other(side)
      if side not in x or (far not in x and not routed):
        continue
      on, sees = route.exchanges, route.sees(side)
      y = self.detached(x, far, route) if far in x else None
      c = grids["audio"][2] if "audio" in grids else 1
      angles = tuple(
        self.angles(side, of, grids[of], c) if of in x else None
        for of in (side, far)
      )
      mask = self.mask(side, x[side], y, sees, scene.frames)
      across = functools.partial(scene.attention.across, side, mask=mask)
      update = getattr(self, side)(x[side], y, angles, across)
      on = on if routed else on & sees
      added[side] = jnp.where(on[:, None, None, None], update, 0)
    return added

  def detached(self, x: dict[str, Array], far: str, route: Route) -> Array:
    """The far stream, cut from the gradient where it is a reference."""
    keep = route.is_generated(far)[:, None, None, None]
    return jnp.where(keep, x[far], jax.lax.stop_gradient(x[far]))

"""Audio tokens beside the video tokens of their frame: order, ids, positions.

Both streams have the same f frames, each with s tokens of video and r of audio.
Joined, they are ordered by frame: s tokens of video, then r of audio.
"""

import einops
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

from ccl_jax.array_types import STREAMS, Array, Bool, Float, Int, PyTree
from ccl_jax.config import check_choice
from ccl_jax.models import rope
from ccl_jax.models.fusion.base import FusionContext

ROPES = ("same_t_offgrid", "same_t_zero", "none")
# Why nothing of audio tokens that read the video can be cached.
UNCACHEABLE = (
  "audio tokens of this model read the video, so that they change at every"
  " step and cannot be cached"
)


def check_rope(rope_audio: str) -> None:
  """Checks the name of positions; else raises ValueError."""
  check_choice("model.fusion.rope_audio", rope_audio, ROPES)


def audio_angles(
  rope_audio: str, shared: FusionContext, head_size: int
) -> Float[Array, "n half"]:
  """Returns RoPE of audio tokens beside the video's grid (t, h, w).

  Token j of frame i is at (i, -1, j), in a row above the image:
  "same_t_offgrid"; at (i, 0, 0): "same_t_zero"; or does not turn: "none".
  """
  f, r = shared.audio_grid.frames, shared.audio_grid.slots
  frame, slot = np.repeat(np.arange(f), r), np.tile(np.arange(r), f)
  zero = np.zeros_like(frame)
  positions = {
    "same_t_offgrid": (frame, zero - 1, slot),
    "same_t_zero": (frame, zero, zero),
    "none": (zero, zero, zero),
  }[rope_audio]
  return rope.token_angles(positions, head_size)


def video_angles(
  shared: FusionContext, head_size: int
) -> Float[Array, "n half"]:
  """Returns RoPE of the video, whose reference pictures precede it."""
  _, h, w = shared.grids["video"]
  return rope.video_angles(shared.video_times, h, w, head_size)


def meets(shared: FusionContext) -> Bool[Array, " b"]:
  """Returns which samples' video and audio meet."""
  return shared.route.sees["video"] & shared.route.exchanges


def side_by_side(
  tokens: dict[str, PyTree[Shaped[Array, " b _ *ke"]]], frames: int
) -> PyTree[Shaped[Array, " b n *ke"]]:
  """Returns arrays of the streams' tokens, or ids of them, frame by frame."""

  def join(*parts):
    parts = [x.reshape(len(x), frames, -1, *x.shape[2:]) for x in parts]
    joined = jnp.concatenate(parts, 2)
    return joined.reshape(len(joined), -1, *joined.shape[3:])

  return jax.tree.map(join, *(tokens[s] for s in STREAMS if s in tokens))


def split(
  x: Float[Array, "b n k e"], shared: FusionContext
) -> dict[str, Float[Array, "b m k e"]]:
  """Returns the streams of tokens that are side by side."""
  f, h, w = shared.grids["video"]
  x = einops.rearrange(x, "b (f s) k e -> b f s k e", f=f)
  parts = {"video": x[:, :, : h * w], "audio": x[:, :, h * w :]}
  pattern = "b f s k e -> b (f s) k e"
  return {s: einops.rearrange(a, pattern) for s, a in parts.items()}


def ids_of(
  shared: FusionContext,
) -> tuple[dict[str, Int[Array, "b n"]], dict[str, Int[Array, "b n"]]]:
  """Returns stream -> ids of its queries, and of its keys; equal ones may meet.

  Audio has the id of video where both meet. Its tokens that are no latent, and
  pictures that a sample lacks, have an id that no query has.
  """
  met = meets(shared).astype(jnp.int32)[:, None]
  (f, h, w), audio = shared.grids["video"], shared.audio_grid
  queries = {
    "video": jnp.ones((len(met), f * h * w), jnp.int32),
    "audio": jnp.broadcast_to(met, (len(met), f * audio.slots)),
  }
  padding, keys = audio.is_padding, dict(queries)
  if shared.references is not None:
    # Beside a picture there is no sound.
    beside = np.repeat(np.arange(f) >= shared.clip_frames, audio.slots)
    padding = padding | beside
    keys["video"] = jnp.where(shared.absent, 2, keys["video"])
  keys["audio"] = jnp.where(jnp.asarray(padding), 2, keys["audio"])
  return queries, keys

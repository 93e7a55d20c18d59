"""What joins two streams: two hooks, called once in every block.

`attend` is how the streams self-attend, `exchange` what each adds to itself
from the other, both sides read from the same snapshot. A fusion that leaves a
hook alone keeps the streams independent there.
"""

from typing import NamedTuple

from flax import nnx

from ccl_jax.attention import Attention
from ccl_jax.types import Array, Route

Grid = tuple[int, int, int]


class Scene(NamedTuple):
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


class Fusion(nnx.Module):
  """Two independent towers; the interface and its neutral element."""

  def attend(
    self, qkv: dict[str, tuple[Array, Array, Array]], scene: Scene
  ) -> dict[str, Array]:
    """Self-attention, stream -> (b, n, k, e)."""
    tokens = {s: h * w for s, (_, h, w) in scene.grids.items()}
    return {
      s: scene.attention.within(s, *args, num_keys=scene.frames * tokens[s])
      for s, args in qkv.items()
    }

  def exchange(self, x: dict[str, Array], scene: Scene) -> dict[str, Array]:
    """Stream -> (b, f, s, d) to add; a stream left out adds nothing."""
    return {}

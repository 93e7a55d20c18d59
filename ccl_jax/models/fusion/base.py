"""What joins two streams: two hooks, called once in every block.

`attend` is how the streams self-attend, `exchange` what each adds to itself
from the other, both sides read from the same snapshot. A fusion that leaves a
hook alone keeps the streams independent there.
"""

from flax import nnx

from ccl_jax.attention import attend
from ccl_jax.types import Array, Route

Grid = tuple[int, int, int]


class Fusion(nnx.Module):
  """Two independent towers; the interface and its neutral element."""

  def attend(
    self, qkv: dict[str, tuple[Array, Array, Array]], backend: str | None
  ) -> dict[str, Array]:
    """Self-attention, stream -> (b, n, k, e)."""
    return {s: attend(*args, backend=backend) for s, args in qkv.items()}

  def exchange(
    self,
    x: dict[str, Array],
    grids: dict[str, Grid],
    route: Route,
    backend: str | None,
  ) -> dict[str, Array]:
    """Stream -> (b, f, s, d) to add; a stream left out adds nothing."""
    return {}

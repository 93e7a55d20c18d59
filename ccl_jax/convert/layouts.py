"""Memory layouts of weights: exact conversions between PyTorch's and ours.

PyTorch stores a linear layer as (out, in) and a convolution as
(out, in, space...); here both end with (in, out). A `WeightLayout` moves values
without changing them, so a round trip is exact. Patterns are those of einops;
`o` is out, `i` in, and `t y x` are space.
"""

import dataclasses
from collections.abc import Callable

import einops
import numpy as np

from ccl_jax.models.rope import half_split_order

Arrays = tuple[np.ndarray, ...]


@dataclasses.dataclass(frozen=True)
class WeightLayout:
  """A function from the arrays of a file to our arrays, and its inverse.

  Attributes:
    name: for messages.
    to_ours: (*theirs) -> tuple of ours.
    to_theirs: (*ours) -> tuple of theirs.
  """

  name: str
  to_ours: Callable[..., Arrays]
  to_theirs: Callable[..., Arrays]

  def then(self, after: "WeightLayout") -> "WeightLayout":
    """Returns the composition: this layout, then `after`, towards ours."""
    return WeightLayout(
      f"{self.name}, then {after.name}",
      lambda *theirs: after.to_ours(*self.to_ours(*theirs)),
      lambda *ours: self.to_theirs(*after.to_theirs(*ours)),
    )


SAME = WeightLayout("same", lambda *x: x, lambda *x: x)


def relayout(theirs: str, ours: str, **sizes: int) -> WeightLayout:
  """Returns the layout of one array between two einops patterns.

  Args:
    theirs, ours: the two sides, such as "o i y x" and "y x i o"; axes of length
      1 may be left out on one side: "1 d 1 1" and "d".
    sizes: lengths of axes that one side joins: "(k e) i", with e=64.
  """
  return WeightLayout(
    f"'{theirs}' -> '{ours}'",
    lambda x: (einops.rearrange(x, f"{theirs} -> {ours}", **sizes),),
    lambda x: (einops.rearrange(x, f"{ours} -> {theirs}", **sizes),),
  )


LINEAR = relayout("o i", "i o")
CONV1D = relayout("o i x", "x i o")
CONV2D = relayout("o i y x", "y x i o")
CONV3D = relayout("o i t y x", "t y x i o")

# PyTorch's transposed convolution flips the kernel, `jax.lax.conv_transpose`
# only with transpose_kernel=True; so the order stays as stored.
CONV_TRANSPOSE1D = relayout("i o x", "x i o")


# One array of theirs is q, k and v of ours: `QKV.then(each(LINEAR))` splits a
# (3 o, i) projection.
QKV = WeightLayout(
  "split 3",
  lambda x: tuple(np.split(x, 3)),
  lambda *ours: (np.concatenate(ours),),
)


def each(layout: WeightLayout) -> WeightLayout:
  """Returns a layout that applies `layout` to every array of a rule."""
  return WeightLayout(
    f"each {layout.name}",
    lambda *theirs: tuple(layout.to_ours(x)[0] for x in theirs),
    lambda *ours: tuple(layout.to_theirs(x)[0] for x in ours),
  )


def half_split(head_size: int) -> WeightLayout:
  """Returns the layout of queries or keys between the two RoPE conventions.

  Theirs rotate neighbouring channels, ours channels half a head apart. The
  channels are the leading axis of theirs; in each head, ours[i] is
  theirs[half_split_order[i]] (see `models.rope`).
  """
  order = half_split_order(head_size)

  def permute(x, order):
    heads = x.reshape(-1, head_size, *x.shape[1:])
    return (heads[:, order].reshape(x.shape),)

  return WeightLayout(
    f"half_split({head_size})",
    lambda x: permute(x, order),
    lambda x: permute(x, np.argsort(order)),
  )


def weight_norm(layout: WeightLayout, axis: int = 0) -> WeightLayout:
  """Returns the layout that folds a weight norm: (g, v) -> w = v g / |v|.

  |v| is over all axes but one, in float32. The inverse takes v = w and g = |w|,
  from which the same w is computed again, bit for bit.

  Args:
    layout: from v to our array.
    axis: axis of v that is not normalised.
  """

  def fold(g, v):
    norm = _norm(v, axis)
    if g.shape != norm.shape:
      raise ValueError(f"{g.shape=}, of {v.shape=} expected {norm.shape}.")
    return layout.to_ours((v * (g / norm)).astype(v.dtype))

  def unfold(w):
    (v,) = layout.to_theirs(w)
    return _norm(v, axis).astype(w.dtype), v

  return WeightLayout(f"weight norm, {layout.name}", fold, unfold)


def _norm(v: np.ndarray, axis: int) -> np.ndarray:
  axes = tuple(i for i in range(v.ndim) if i != axis)
  square = np.square(v.astype(np.float32)).sum(axes, keepdims=True)
  return np.sqrt(square)

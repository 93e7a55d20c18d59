"""How arrays of another program lie in ours, and the way back.

A layout takes the arrays of one rule, theirs, to ours, and its inverse takes
them back; both move numbers and change none. PyTorch keeps a linear layer as
(out, in) and a convolution as (out, in, space...); here both end with
(in, out). Patterns are einops'; `o` is out, `i` in, `t y x` are space.
"""

import dataclasses
from collections.abc import Callable

import einops
import numpy as np

from ccl_jax.models.rope import half_split_order

Arrays = tuple[np.ndarray, ...]


@dataclasses.dataclass(frozen=True)
class Layout:
  """A function of arrays and its inverse.

  Attributes:
    name: for messages.
    to_ours: (*theirs) -> tuple of ours.
    to_theirs: (*ours) -> tuple of theirs.
  """

  name: str
  to_ours: Callable[..., Arrays]
  to_theirs: Callable[..., Arrays]

  def then(self, after: "Layout") -> "Layout":
    """First this, then `after`, on the way to ours."""
    return Layout(
      f"{self.name}, then {after.name}",
      lambda *theirs: after.to_ours(*self.to_ours(*theirs)),
      lambda *ours: self.to_theirs(*after.to_theirs(*ours)),
    )


SAME = Layout("same", lambda *x: x, lambda *x: x)


def relayout(theirs: str, ours: str, **sizes: int) -> Layout:
  """One array by einops patterns: relayout("o i 1 -> ..."), both sides given.

  Args:
    theirs, ours: the two sides: "o i y x", "y x i o"; axes of length 1 may be
      left out on one side: "1 d 1 1", "d".
    sizes: of axes that one side joins: "(k e) i", with e=64.
  """
  return Layout(
    f"'{theirs}' -> '{ours}'",
    lambda x: (einops.rearrange(x, f"{theirs} -> {ours}", **sizes),),
    lambda x: (einops.rearrange(x, f"{ours} -> {theirs}", **sizes),),
  )


LINEAR = relayout("o i", "i o")
CONV1D = relayout("o i x", "x i o")
CONV2D = relayout("o i y x", "y x i o")
CONV3D = relayout("o i t y x", "t y x i o")

# As it lies: `jax.lax.conv_transpose` turns the kernel over only when it is
# told to (transpose_kernel); PyTorch always does: see `flip`.
CONV_TRANSPOSE1D = relayout("i o x", "x i o")


def flip(axis: int) -> Layout:
  """Turns an axis over: a transposed convolution as one of a dilated input.

  `CONV_TRANSPOSE1D.then(flip(0))` is the kernel (x, i, o) of the plain
  convolution with lhs_dilation that equals PyTorch's ConvTranspose1d.
  """
  return Layout(
    f"flip({axis})",
    lambda x: (np.flip(x, axis),),
    lambda x: (np.flip(x, axis),),
  )


def fused(num: int, axis: int = 0) -> Layout:
  """One array of theirs is `num` of ours, one behind the other along `axis`.

  `fused(3).then(each(LINEAR))` splits a (3 o, i) projection to q, k and v.
  """

  def join(*ours):
    return (np.concatenate(ours, axis),)

  return Layout(f"split {num}", lambda x: tuple(np.split(x, num, axis)), join)


def each(layout: Layout) -> Layout:
  """A layout of one array, on every array of a rule."""
  return Layout(
    f"each {layout.name}",
    lambda *theirs: tuple(layout.to_ours(x)[0] for x in theirs),
    lambda *ours: tuple(layout.to_theirs(x)[0] for x in ours),
  )


def half_split(head_size: int) -> Layout:
  """Channels of q or k (or of their norms) from neighbours to halves.

  The channels are theirs' leading axis; in each head, ours[i] is
  wan[half_split_order[i]] (see `models.rope`).
  """
  order = half_split_order(head_size)
  return Layout(
    f"half_split({head_size})",
    lambda x: (_permute(x, order),),
    lambda x: (_permute(x, np.argsort(order)),),
  )


def _permute(x: np.ndarray, order: np.ndarray) -> np.ndarray:
  heads = x.reshape(-1, len(order), *x.shape[1:])
  return heads[:, order].reshape(x.shape)


def weight_norm(layout: Layout) -> Layout:
  """(g, v) of a weight norm -> w = v g / |v|, in `layout`.

  |v| is over all axes but the leading one, in float32. The way back takes
  v = w and g = |w|: what comes from there again is the same, bit for bit.
  """

  def fold(g, v):
    norm = _norm(v)
    if g.shape != norm.shape:
      raise ValueError(f"{g.shape=}, of {v.shape=} expected {norm.shape}.")
    return layout.to_ours((v * (g / norm)).astype(v.dtype))

  def unfold(w):
    (v,) = layout.to_theirs(w)
    return _norm(v).astype(w.dtype), v

  return Layout(f"weight norm, {layout.name}", fold, unfold)


def _norm(v: np.ndarray) -> np.ndarray:
  axes = tuple(range(1, v.ndim))
  square = np.square(v.astype(np.float32)).sum(axes, keepdims=True)
  return np.sqrt(square)

"""Adaptive LayerNorm in one pass forward and one backward.

    xhat = (x - mean(x)) r,   r = rsqrt(var(x) + epsilon)
    out = xhat (1 + scale) + shift                                           (1)

and with g the gradient of out, h = g (1 + scale), means over the d channels,

    g_x = r (h - mean(h) - xhat mean(h xhat))
    g_shift = sum of g,   g_scale = sum of g xhat   over a frame's tokens    (2)

XLA reads x three times for (1) and five times for (2). On a TPU, where shift
and scale are the same for all tokens of a frame, Pallas kernels read it once.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec as P

from ccl_jax.array_types import Array, Float
from ccl_jax.ops.norms import EPSILON, normalize
from ccl_jax.params.sharding import Layout

# Bytes of a block, of which the backward kernel has several, and copies in
# float32; all must fit in the 16 MiB of VMEM that a kernel gets by default.
_MAX_BLOCK = 2**20
_LANES = 128


def modulator(layout: Layout, stream: str, interpret: bool = False) -> Callable:
  """Returns modulate(x, shift, scale), eq. 1.

  On a TPU it runs the kernels on each shard, where they support the shapes.
  """
  is_tpu = layout.device.platform == "tpu"
  if not (is_tpu or interpret):
    return modulate

  kernel = functools.partial(modulate_by_frame, interpret=interpret)

  def call(x, shift, scale):
    is_by_frame = shift.shape[2] == scale.shape[2] == 1
    if not is_by_frame or x.shape[-1] % _LANES or _rows(x) is None:
      return modulate(x, shift, scale)
    if layout.mesh is None:
      return kernel(x, shift, scale)
    rows, context = (*layout.spec(f"{stream}/tokens"), None)[:2]
    frames = P(rows, context if shift.shape[1] > 1 else None)
    mapped = jax.shard_map(
      kernel, mesh=layout.mesh, in_specs=(P(rows, context), frames, frames),
      out_specs=P(rows, context), check_vma=False,
    )  # fmt: skip
    return mapped(x, shift, scale)

  return call


def modulate(
  x: Float[Array, "b f s d"],
  shift: Float[Array, " b #f #s d"],
  scale: Float[Array, " b #f #s d"],
) -> Float[Array, "b f s d"]:
  """Returns eq. 1 in x's dtype, computed in float32."""
  return (normalize(x) * (1 + scale) + shift).astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def modulate_by_frame(
  x: Float[Array, "b f s d"],
  shift: Float[Array, " b #f 1 d"],
  scale: Float[Array, " b #f 1 d"],
  interpret: bool = False,
) -> Float[Array, "b f s d"]:
  """Returns eq. 1 by a kernel; `interpret` runs it without a TPU, slowly."""
  return pl.pallas_call(
    _forward,
    out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype),
    in_specs=[_tokens(x), _row(shift), _row(scale)],
    out_specs=_tokens(x),
    **_options(x, interpret, "ada_norm_fwd"),
  )(x, shift, scale)


def _modulate_fwd(x, shift, scale, interpret):
  return modulate_by_frame(x, shift, scale, interpret), (x, shift, scale)


def _modulate_bwd(interpret, saved, g):
  """Returns eq. 2; a block's sums over its rows are added up outside."""
  x, shift, scale = saved
  b, f, s, d = x.shape
  blocks = s // _rows(x)
  sums = jax.ShapeDtypeStruct((b, f, blocks, 2, d), jnp.float32)
  g_x, sums = pl.pallas_call(
    _backward,
    out_shape=(jax.ShapeDtypeStruct(x.shape, x.dtype), sums),
    in_specs=[_tokens(x), _row(scale), _tokens(x)],
    out_specs=(
      _tokens(x),
      pl.BlockSpec((1, 1, 1, 2, d), lambda i, j, k: (i, j, k, 0, 0)),
    ),
    **_options(x, interpret, "ada_norm_bwd"),
  )(x, scale, g)
  sums = sums.sum(2, keepdims=True)  # b f 1 2 d
  if shift.shape[1] == 1:
    sums = sums.sum(1, keepdims=True)
  return g_x, sums[..., 0, :], sums[..., 1, :]


modulate_by_frame.defvjp(_modulate_fwd, _modulate_bwd)


def _forward(x_ref, shift_ref, scale_ref, out_ref):
  """Computes eq. 1 of a block of a frame's rows."""
  xhat, _ = _normalized(x_ref)
  out = xhat * (1 + scale_ref[0, 0]) + shift_ref[0, 0]
  out_ref[0, 0] = out.astype(out_ref.dtype)


def _backward(x_ref, scale_ref, g_ref, gx_ref, sums_ref):
  """Computes eq. 2 of a block of a frame's rows."""
  xhat, r = _normalized(x_ref)
  g = g_ref[0, 0].astype(jnp.float32)
  sums_ref[0, 0, 0, :1] = g.sum(0, keepdims=True)
  sums_ref[0, 0, 0, 1:] = (g * xhat).sum(0, keepdims=True)
  h = g * (1 + scale_ref[0, 0])
  mean = h.mean(-1, keepdims=True)
  along = (h * xhat).mean(-1, keepdims=True)
  gx_ref[0, 0] = (r * (h - mean - xhat * along)).astype(gx_ref.dtype)


def _normalized(x_ref):
  """Returns xhat and r of a block, float32."""
  x = x_ref[0, 0].astype(jnp.float32)
  x = x - x.mean(-1, keepdims=True)
  r = jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + EPSILON)
  return x * r, r


def _rows(x: Array) -> int | None:
  """Returns the rows of a block: a multiple of 16 that divides s, or None."""
  s, d = x.shape[2:]
  sizes = range(16, min(s, _MAX_BLOCK // (d * x.dtype.itemsize)) + 1, 16)
  return max((rows for rows in sizes if s % rows == 0), default=None)


def _tokens(x):
  return pl.BlockSpec(
    (1, 1, _rows(x), x.shape[3]), lambda i, j, k: (i, j, k, 0)
  )


def _row(vector):
  """Returns the block of a frame's own vector, or of the one of all frames."""
  by_frame = int(vector.shape[1] > 1)
  return pl.BlockSpec(
    (1, 1, 1, vector.shape[3]), lambda i, j, k: (i, j * by_frame, 0, 0)
  )


def _options(x, interpret, name):
  """Returns the arguments that both kernels share."""
  b, f, s, _ = x.shape
  return dict(
    grid=(b, f, s // _rows(x)), interpret=interpret, name=name,
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=("parallel",) * 3
    ),
  )  # fmt: skip

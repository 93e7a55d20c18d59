"""Bias, RMSNorm, rotation and layout of queries and keys in one pass.

On a TPU, a Pallas kernel reads a product a (b, n, k * e) once and writes it
head by head, as attention reads it. With r = rsqrt(mean(x^2) + epsilon) over
all d = k * e channels, S the exchange of the halves of a head, c = (cos, cos)
and s = (-sin, sin),

    x = a + bias,   y = x r scale,   out = y c + S(y) s                      (1)

and backwards, with g the gradient of out and sums over channels,

    g_y = g c - S(g) s,   h = g_y scale
    g_a = r h - x r^3 sum(h x) / d                                           (2)

and g_scale = sum of g_y x r, g_bias = sum of g_a over the rows. x, y and g_y
are rounded to a's dtype, as by the separate functions.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec as P

from ccl_jax.array_types import Array, Float
from ccl_jax.models.layers import split_heads
from ccl_jax.models.rope import rotate
from ccl_jax.ops.norms import EPSILON
from ccl_jax.params.sharding import Layout

# Bytes of a block, of which the backward kernel has several, and copies in
# float32; all must fit in the 16 MiB of VMEM that a kernel gets by default.
_MAX_BLOCK = 5 * 2**18
_LANES = 128


def projector(layout: Layout, stream: str, interpret: bool = False) -> Callable:
  """Returns project(linear, norm, x, e, angles) -> (b, n, k, e), eq. 1.

  Without angles, nothing is rotated.
  On a TPU it runs the kernel on each shard's tokens, unless the mesh splits the
  heads, as the norm is over all of them, or a head does not fill the lanes.
  """
  rows, context, tensor = None, None, None
  if layout.mesh is not None:
    rows, context, tensor = (*layout.spec(f"{stream}/heads"), None, None)[:3]
  is_tpu = layout.device.platform == "tpu"
  if not (is_tpu or interpret) or layout.size(tensor) > 1:
    return _project

  kernel = functools.partial(norm_rotate, interpret=interpret)
  if layout.mesh is not None:
    tokens, table = P(rows, context), P(context)
    kernel = jax.shard_map(
      kernel, mesh=layout.mesh, in_specs=(tokens, P(), table),
      out_specs=tokens, check_vma=False,
    )  # fmt: skip

  def project(linear, norm, x, e, angles=None):
    if e % _LANES:
      return _project(linear, norm, x, e, angles)
    if angles is None:
      angles = jnp.zeros((x.shape[1], e // 2))
    a = jnp.einsum("bnd,dc->bnc", x, linear.kernel[...].astype(x.dtype))
    a = a if linear.lora is None else a + linear.lora(x)
    return kernel(a, jnp.stack([linear.bias[...], norm.scale[...]]), angles)

  return project


def _project(linear, norm, x, e, angles=None):
  """Computes eq. 1 in steps."""
  y = split_heads(norm(linear(x)), e)
  return y if angles is None else rotate(y, angles)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def norm_rotate(
  a: Float[Array, "b n d"],
  vectors: Float[Array, "2 d"],
  angles: Float[Array, "n half"],
  interpret: bool = False,
) -> Float[Array, "b n k e"]:
  """Returns eq. 1, stored with heads before tokens.

  Args:
    a: a projection to all heads, e = 2 * half channels each, without its bias.
    vectors: bias and scale.
    interpret: run without a TPU, slowly.
  """
  b, n, d = a.shape
  e = 2 * angles.shape[1]
  out = pl.pallas_call(
    _forward,
    out_shape=jax.ShapeDtypeStruct((b, d // e, n, e), a.dtype),
    in_specs=[_tokens(a), _vectors(d), _table(a, e), _table(a, e)],
    out_specs=_heads(a, e),
    scratch_shapes=[pltpu.VMEM((_rows(a), d), a.dtype)],
    **_options(a, interpret, "norm_rotate_fwd"),
  )(a, vectors, *_tables(angles))
  return jnp.swapaxes(out, 1, 2)


def _norm_rotate_fwd(a, vectors, angles, interpret):
  return norm_rotate(a, vectors, angles, interpret), (a, vectors, angles)


def _norm_rotate_bwd(interpret, saved, g):
  """Returns eq. 2; angles are constants."""
  a, vectors, angles = saved
  b, n, d = a.shape
  e = g.shape[-1]
  rows = _rows(a)
  g_a, g_vectors = pl.pallas_call(
    functools.partial(_backward, n),
    out_shape=(
      jax.ShapeDtypeStruct(a.shape, a.dtype),
      jax.ShapeDtypeStruct((b, pl.cdiv(n, rows), 2, d), jnp.float32),
    ),
    in_specs=[
      _tokens(a),
      _vectors(d),
      _table(a, e),
      _table(a, e),
      _heads(a, e),
    ],
    out_specs=(
      _tokens(a),
      pl.BlockSpec((1, 1, 2, d), lambda i, j: (i, j, 0, 0)),
    ),
    scratch_shapes=[
      pltpu.VMEM((rows, d), a.dtype),
      pltpu.VMEM((rows, d), jnp.float32),
    ],
    **_options(a, interpret, "norm_rotate_bwd"),
  )(a, vectors, *_tables(angles), jnp.swapaxes(g, 1, 2))
  return g_a, g_vectors.sum((0, 1)), jnp.zeros_like(angles)


norm_rotate.defvjp(_norm_rotate_fwd, _norm_rotate_bwd)


def _forward(a_ref, vectors_ref, cos_ref, sin_ref, out_ref, x_ref):
  """Computes eq. 1 of a block of rows."""
  dtype, (heads, _, e) = a_ref.dtype, out_ref.shape[1:]
  r = _add_bias(a_ref, vectors_ref, x_ref)
  cos, sin = cos_ref[...], sin_ref[...]
  for head in range(heads):
    at = slice(head * e, (head + 1) * e)
    y = x_ref[:, at].astype(jnp.float32) * r * vectors_ref[1:, at]
    y = y.astype(dtype).astype(jnp.float32)
    out_ref[0, head] = (y * cos + _swap(y) * sin).astype(dtype)


def _backward(
  n, a_ref, vectors_ref, cos_ref, sin_ref, g_ref, ga_ref, gvectors_ref, x_ref,
  h_ref,
):  # fmt: skip
  """Computes eq. 2 of a block of rows; rows after the last of n count as 0."""
  dtype, (heads, rows, e) = a_ref.dtype, g_ref.shape[1:]
  r = _add_bias(a_ref, vectors_ref, x_ref)
  cos, sin = cos_ref[...], sin_ref[...]
  row = jax.lax.broadcasted_iota(jnp.int32, (rows, e), 0)
  is_real = row < n - pl.program_id(1) * rows
  total = jnp.zeros((rows, e), jnp.float32)
  for head in range(heads):
    at = slice(head * e, (head + 1) * e)
    g, x = g_ref[0, head].astype(jnp.float32), x_ref[:, at].astype(jnp.float32)
    gy = (g * cos - _swap(g) * sin).astype(dtype).astype(jnp.float32)
    g_scale = jnp.where(is_real, gy * x * r, 0)
    gvectors_ref[0, 0, 1:, at] = g_scale.sum(0, keepdims=True)
    h_ref[:, at] = gy * vectors_ref[1:, at]
    total += h_ref[:, at] * x
  mean = total.sum(-1, keepdims=True) / (heads * e)
  for head in range(heads):
    at = slice(head * e, (head + 1) * e)
    g_a = r * h_ref[:, at] - x_ref[:, at].astype(jnp.float32) * (r**3 * mean)
    ga_ref[0, :, at] = g_a.astype(dtype)
    g_bias = jnp.where(is_real, g_a, 0).sum(0, keepdims=True)
    gvectors_ref[0, 0, :1, at] = g_bias


def _add_bias(a_ref, vectors_ref, x_ref):
  """Writes x of a block; returns r."""
  bias = vectors_ref[:1].astype(a_ref.dtype)
  x_ref[...] = a_ref[0] + bias
  x = x_ref[...].astype(jnp.float32)
  return jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + EPSILON)


def _swap(y):
  """Exchanges the halves of each row."""
  return pltpu.roll(y, y.shape[-1] // 2, 1)


def _tables(angles):
  """Returns (cos, cos) and (-sin, sin), (n, e) each."""
  cos, sin = jnp.cos(angles), jnp.sin(angles)
  return jnp.concatenate([cos, cos], -1), jnp.concatenate([-sin, sin], -1)


def _rows(a: Array) -> int:
  """Returns the rows of a block, a multiple of 16 up to 128."""
  rows = _MAX_BLOCK // (a.shape[2] * a.dtype.itemsize)
  return max(16, min(rows, 128) // 16 * 16)


def _tokens(a):
  return pl.BlockSpec((1, _rows(a), a.shape[2]), lambda i, j: (i, j, 0))


def _vectors(d):
  return pl.BlockSpec((2, d), lambda i, j: (0, 0))


def _table(a, e):
  return pl.BlockSpec((_rows(a), e), lambda i, j: (j, 0))


def _heads(a, e):
  return pl.BlockSpec(
    (1, a.shape[2] // e, _rows(a), e), lambda i, j: (i, 0, j, 0)
  )


def _options(a, interpret, name):
  """Returns the arguments that both kernels share."""
  return dict(
    grid=(a.shape[0], pl.cdiv(a.shape[1], _rows(a))), interpret=interpret,
    name=name,
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=("parallel", "parallel")
    ),
  )  # fmt: skip

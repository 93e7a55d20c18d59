"""The backward pass of splash attention in one Pallas kernel, for TPUs.

A pair of a query block and a key block takes five products (x' is x
transposed):

    s' = k q'      p' = exp(s' - lse)     dv += p' do
    dp' = v do'    ds' = p' (dp' - di)    dk += ds' q    dq += ds k

with di = sum(out do) - dlse for each query (d lse / d s' = p'). jax's own
kernels take seven: that of dq recomputes s and dp. Its fused kernel stores a dq
for each block of keys.

The innermost loop is over the query blocks. dk and dv are summed over this loop
and dq over all blocks: its float32 sum, n x e, stays in VMEM, which limits n
(`splash_block_sizes`). The axis of the heads is "parallel", so that the cores
of a chip share it.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from ccl_jax.array_types import Array, Float, Int
from ccl_jax.attention.splash_block_sizes import Block, fused_bytes

_NAME = "splash_mha_dkv_dq_no_residuals"
_NOTHING, _PART, _ALL = range(3)
_LANES, _SUBLANES = 128, 8
_NN = (((1,), (0,)), ((), ()))  # a b
_NT = (((1,), (1,)), ((), ()))  # a b^T
_TN = (((0,), (0,)), ((), ()))  # a^T b
_dot = functools.partial(
  jax.lax.dot_general, preferred_element_type=jnp.float32
)
# (query indices, key indices) -> bools, from indices in numpy or in a kernel.
Visible = Callable[[Array, Array], Array]


def block_states(
  visible: Visible | None, n: int, m: int, block: Block
) -> Int[np.ndarray, "i j"]:
  """Returns what is visible of each block: nothing, a part or all of it."""
  shape = n // block.q, m // block.kv
  if visible is None:
    return np.full(shape, _ALL, np.int32)
  q = np.arange(n).reshape(-1, block.q, 1)
  k = np.arange(m).reshape(-1, 1, block.kv)
  seen = (visible(q[i], k[j]) for i, j in np.ndindex(shape))  # one at a time
  states = [_ALL if x.all() else _PART if x.any() else _NOTHING for x in seen]
  return np.reshape(states, shape).astype(np.int32)


def gradients(
  q: Float[Array, "h n e"],
  k: Float[Array, "h m e"],
  v: Float[Array, "h m e"],
  ids: tuple[Int[Array, " n"], Int[Array, " m"]] | None,
  out: Float[Array, "h n e"],
  lse: Float[Array, "h n"],
  do: Float[Array, "h n e"],
  dlse: Float[Array, "h n"] | None = None,
  *,
  states: Int[np.ndarray, "i j"],
  visible: Visible | None,
  block: Block,
  interpret: bool | pltpu.InterpretParams,
) -> tuple[Float[Array, "h n e"], Float[Array, "h m e"], Float[Array, "h m e"]]:
  """Returns the gradients of q, k and v.

  Args:
    ids: of queries and of keys; queries see keys of equal id, or all if None.
    out, lse: the output and the log-sum-exp of each query's logits.
    do, dlse: their gradients; None if nobody reads the log-sum-exp.
    states: `block_states`.
    visible: the static mask; None if every query sees every key.
  """
  (heads, n, e), m = q.shape, k.shape[1]
  di = jnp.einsum("hne,hne->hn", out, do, preferred_element_type=jnp.float32)
  di = di if dlse is None else di - dlse
  grid = (heads, m // block.kv, n // block.q)
  in_specs, out_specs = _block_specs(block, e, grid[1] - 1, ids is not None)
  kernel = pl.pallas_call(
    functools.partial(_kernel, visible=visible, compute=block.compute),
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=1,
      grid=grid,
      in_specs=in_specs,
      out_specs=out_specs,
      scratch_shapes=[
        pltpu.VMEM((length, e), jnp.float32)
        for length in (n, block.kv, block.kv)
      ],
    ),
    out_shape=[jax.ShapeDtypeStruct.like(x) for x in (q, k, v)],
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=("parallel", "arbitrary", "arbitrary"),
      vmem_limit_bytes=fused_bytes(n, e, block),
    ),
    name=_NAME,
    interpret=interpret,
  )
  with jax.named_scope(_NAME):  # the operation's name in the program
    return kernel(
      states, q, k, v, do, lse[:, None], di[:, None], *_laid_out(ids, n, m)
    )


def _block_specs(block: Block, e: int, last: int, has_ids: bool):
  """Returns those of the inputs and of the outputs."""
  queries = pl.BlockSpec((None, block.q, e), lambda h, j, i, _: (h, i, 0))
  keys = pl.BlockSpec((None, block.kv, e), lambda h, j, i, _: (h, j, 0))
  row = pl.BlockSpec((None, 1, block.q), lambda h, j, i, _: (h, 0, i))
  q_ids = pl.BlockSpec((_SUBLANES, block.q), lambda h, j, i, _: (0, i))
  k_ids = pl.BlockSpec((block.kv, _LANES), lambda h, j, i, _: (j, 0))
  ids = (q_ids, k_ids) if has_ids else (None, None)
  # dq is complete with the last block of keys: until then nothing is written,
  # as its first block is still the current one.
  dq = pl.BlockSpec(
    (None, block.q, e), lambda h, j, i, _: (h, jnp.where(j == last, i, 0), 0)
  )
  return [queries, keys, keys, queries, row, row, *ids], [dq, keys, keys]


def _laid_out(ids, n: int, m: int):
  """Returns the ids of queries along lanes, and of keys along sublanes."""
  if ids is None:
    return None, None
  q_ids, k_ids = ids
  return (
    jnp.broadcast_to(q_ids, (_SUBLANES, n)),
    jnp.broadcast_to(k_ids[:, None], (m, _LANES)),
  )


def _kernel(
  states, q, k, v, do, lse, di, q_ids, k_ids, dq, dk, dv,
  dq_sum, dk_sum, dv_sum, *, visible, compute,
):  # fmt: skip
  j, i = pl.program_id(1), pl.program_id(2)
  rows = pl.ds(i * q.shape[0], q.shape[0])

  @pl.when(i == 0)
  def _start_keys():
    dk_sum[...] = jnp.zeros_like(dk_sum)
    dv_sum[...] = jnp.zeros_like(dv_sum)

  @pl.when(j == 0)
  def _start_queries():
    dq_sum[rows, :] = jnp.zeros(q.shape, jnp.float32)

  def add(visible):
    @pl.loop(0, k.shape[0], step=compute)
    def _add_part(start):
      part = pl.ds(pl.multiple_of(start, compute), compute)
      offsets = (i * q.shape[0], j * k.shape[0] + start)
      mask = _mask(visible, q_ids, k_ids, part, offsets, q.shape[0])
      p = jnp.exp(_dot(k[part, :], q[...], _NT) - lse[...])
      p = p if mask is None else jnp.where(mask, p, 0.0)
      dv_sum[part, :] += _dot(p.astype(do.dtype), do[...], _NN)
      ds = (_dot(v[part, :], do[...], _NT) - di[...]) * p
      ds = ds.astype(q.dtype)
      dk_sum[part, :] += _dot(ds, q[...], _NN)
      dq_sum[rows, :] += _dot(ds, k[part, :], _TN)

  pl.when(states[i, j] == _ALL)(lambda: add(None))
  if visible is not None:
    pl.when(states[i, j] == _PART)(lambda: add(visible))

  @pl.when(j == pl.num_programs(1) - 1)
  def _end_queries():
    dq[...] = dq_sum[rows, :].astype(dq.dtype)

  @pl.when(i == pl.num_programs(2) - 1)
  def _end_keys():
    dk[...] = dk_sum[...].astype(dk.dtype)
    dv[...] = dv_sum[...].astype(dv.dtype)


def _mask(visible, q_ids, k_ids, part, offsets, num_queries: int):
  """Returns which keys (rows) and queries (columns) meet; None if all do."""
  masks = []
  if visible is not None:  # of a row and a column, as divisions are slow
    iota = functools.partial(jax.lax.broadcasted_iota, jnp.int32)
    q_index = offsets[0] + iota((1, num_queries), 1)
    k_index = offsets[1] + iota((part.size, 1), 0)
    masks.append(visible(q_index, k_index))
  if q_ids is not None:
    keys = jnp.tile(k_ids[part, :], (1, num_queries // _LANES))
    masks.append(keys == q_ids[:1, :])
  return functools.reduce(jnp.logical_and, masks) if masks else None

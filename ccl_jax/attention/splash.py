"""Pallas splash attention for TPUs: blockwise, the mask computed in the kernel.

The pattern is the kernel's static mask, evaluated from indices block by block,
so blocks that no query sees are skipped and no n x m array exists. Lengths and
segments are its segment ids. The kernel needs full blocks and full lanes:

  - queries are padded with copies of the last query, with its position and id:
    no row is empty, and rows that are cut off pass back no gradient;
  - keys after the true m are hidden by the static mask;
  - heads are padded with zeros to a multiple of 128, which changes no logit;
  - on chips with two cores (v4, v5p), an even number of heads forms two groups.

The forward kernel is jax's. The backward pass is `splash_backward`, or jax's
two kernels where the chip has too little memory for it. The output and its
log-sum-exp carry the caller's `name`, so that a remat policy can keep them.
Like any Mosaic kernel, it must be called inside `shard_map` on several chips.
"""

import dataclasses
import functools
from collections.abc import Callable

import einops
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_kernel as kernels,
)
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_mask as masks,
)

from ccl_jax.array_types import Array, Float
from ccl_jax.attention import splash_backward
from ccl_jax.attention.mask import Full, Mask, Pattern
from ccl_jax.attention.merging import Part
from ccl_jax.attention.splash_block_sizes import BlockSizes, choose, padded
from ccl_jax.attention.target import CompileTarget
from ccl_jax.cost import chips

_LANES = 128


def attend(
  q: Float[Array, "b n k e"],
  k: Float[Array, "b m k e"],
  v: Float[Array, "b m k e"],
  mask: Mask,
  target: CompileTarget,
  name: str | None = None,
  with_lse: bool = False,
) -> Float[Array, "b n k e"] | Part:
  """Computes attention for any mask; interpreted, slowly, without a TPU.

  Raises:
    NotImplementedError: a log-sum-exp of more queries than the fused backward
      kernel takes, as jax's own has no gradient of it.
  """
  (b, n, heads, e), m = q.shape, k.shape[1]
  groups = count_groups(heads, target.kind)
  attend_heads = make_kernel(
    mask.pattern, heads // groups, n, m, choose(n, m, target.kind, e),
    target.platform != "tpu", name, with_lse,
  )  # fmt: skip
  segments = None if mask.is_static else _pad_ids(mask, b, n, m)
  attend_groups = jax.vmap(attend_heads, in_axes=(0, 0, 0, None))
  out, *lse = jax.vmap(attend_groups)(
    *(_pad(x, groups) for x in (q * e**-0.5, k, v)), segments
  )
  out = einops.rearrange(out, "b g k n e -> b n (g k) e")[:, :n, :, :e]
  if not with_lse:
    return out
  return out, einops.rearrange(lse[0], "b g k n -> b n (g k)")[:, :n]


def count_groups(num_heads: int, device_kind: str) -> int:
  """Returns how many groups of heads run side by side: one a core, or 1.

  Mosaic gives the cores of a chip shares of a "parallel" axis only, and jax's
  backward kernels declare none. `vmap` adds one: the axis of the groups.
  """
  chip = chips.chip_of(device_kind)
  cores = chip.cores if chip else 1
  return cores if num_heads % cores == 0 else 1


def _pad(x: Float[Array, "b n k e"], groups: int) -> Float[Array, "b g h _ _"]:
  """Moves groups of heads before tokens and pads to full blocks and lanes."""
  x = einops.rearrange(x, "b n (g k) e -> b g k n e", g=groups)
  n, e = x.shape[3:]
  return jnp.pad(x, (*[(0, 0)] * 3, (0, padded(n) - n), (0, -e % _LANES)))


def _pad_ids(mask: Mask, b: int, n: int, m: int) -> kernels.SegmentIds:
  q_ids, k_ids = mask.ids(n, m)
  q_ids = jnp.pad(q_ids, ((0, 0), (0, padded(n) - n)), mode="edge")
  k_ids = jnp.pad(k_ids, ((0, 0), (0, padded(m) - m)), constant_values=-1)
  return kernels.SegmentIds(
    *(jnp.broadcast_to(x, (b, x.shape[1])) for x in (q_ids, k_ids))
  )


@dataclasses.dataclass(frozen=True)
class VisibleInPattern:
  """`pattern` on the padded grid of n queries by m keys."""

  pattern: Pattern
  n: int
  m: int

  def __call__(self, q_index, k_index):
    if isinstance(self.pattern, Full):  # as short as can be: runs on each logit
      return k_index < min(self.m, self.pattern.num_keys or self.m)
    is_true_key = k_index < self.m
    xp = jnp if isinstance(q_index, jax.Array) else np
    q_index = xp.minimum(q_index, self.n - 1)
    return self.pattern.visible(q_index, k_index) & is_true_key


class _ComputedMask(masks._ComputableMask):
  """A static mask that the kernel evaluates itself; equal by its content."""

  def __init__(self, visible: VisibleInPattern):
    shape = (padded(visible.n), padded(visible.m))
    super().__init__(shape=shape, mask_function=visible, shard_count=1)

  def __eq__(self, other):
    if not isinstance(other, _ComputedMask):
      return NotImplemented
    return self.mask_function == other.mask_function

  def __hash__(self):
    return hash(self.mask_function)


@functools.lru_cache(maxsize=64)
def make_kernel(
  pattern: Pattern, num_heads: int, n: int, m: int, sizes: BlockSizes,
  interpret: bool, name: str | None, with_lse: bool = False,
):  # fmt: skip
  """Makes the kernel for (k, n, e) arrays, once for all layers.

  It returns a tuple: the output, and the log-sum-exp if asked for.

  Args:
    interpret: run without a TPU, slowly.
    name: of the output and its log-sum-exp, for remat policies.
  """
  visible = VisibleInPattern(pattern, n, m)
  n, m = padded(n), padded(m)
  if pattern == Full() and (n, m) == (visible.n, visible.m):
    visible, mask = None, masks.FullMask((n, m))
  else:
    mask = _ComputedMask(visible)
  multi = masks.MultiHeadMask([mask] * num_heads)
  if sizes.fused is None:
    if with_lse:
      raise NotImplementedError(f"no gradient of the log-sum-exp for {n=}")
    kernel = _make_jax_kernel(multi, sizes, interpret, name)
    return lambda *args: (kernel(*args),)
  forward = _make_jax_kernel(multi, sizes, interpret, None)
  backward = functools.partial(
    splash_backward.gradients,
    states=splash_backward.block_states(visible, n, m, sizes.fused),
    visible=visible,
    block=sizes.fused,
    interpret=interpret,
  )
  return _join(forward, backward, name, with_lse)


def _make_jax_kernel(
  mask, sizes: BlockSizes, interpret: bool, name: str | None
):
  """Makes jax's kernel, with its own backward pass if none is fused."""
  forward, dq, dkv = sizes.forward, sizes.dq, sizes.dkv
  backward = {
    "block_q_dq": dq.q,
    "block_kv_dq": dq.kv,
    "block_q_dkv": dkv.q,
    "block_kv_dkv": dkv.kv,
    "block_kv_dkv_compute": dkv.compute,
  }
  block_sizes = kernels.BlockSizes(
    block_q=forward.q,
    block_kv=forward.kv,
    block_kv_compute=forward.compute,
    **({} if sizes.fused else backward),
  )
  # Built outside of any trace, and kept as numpy: the cache must hold neither
  # tracers nor arrays on a device.
  with jax.ensure_compile_time_eval():
    kernel = kernels.make_splash_mha(
      mask,
      block_sizes=block_sizes,
      head_shards=1,
      q_seq_shards=1,
      residual_checkpoint_name=name,
      interpret=interpret,
    )
  return jax.tree.map(np.asarray, kernel)


def _join(
  forward: kernels.SplashAttentionKernel,
  backward: Callable,
  name: str | None,
  with_lse: bool,
) -> Callable:
  """Returns `forward`, differentiated by `backward`, as a tuple."""
  forward_with_lse = kernels.SplashAttentionKernel(
    forward.fwd_mask_info, None, None,
    **forward.kwargs | {"save_residuals": True},
  )  # fmt: skip

  @jax.custom_vjp
  def attend_heads(q, k, v, ids):
    if with_lse:
      out, (lse,) = forward_with_lse(q, k, v, ids)
      return out, lse
    return (forward(q, k, v, ids),)

  def run_forward(q, k, v, ids):
    out, (lse,) = forward_with_lse(q, k, v, ids)
    if name is not None:
      out, lse = checkpoint_name(out, name), checkpoint_name(lse, name)
    outputs = (out, lse) if with_lse else (out,)
    return outputs, (q, k, v, ids, out, lse)

  def run_backward(residuals, gradients):
    return *backward(*residuals, *gradients), None

  attend_heads.defvjp(run_forward, run_backward)
  return attend_heads

"""cuDNN flash attention, through jax.nn: full attention in half precision.

It needs a GPU, bfloat16 or float16, no pattern and no segments; anything else
is refused with the reason. Key lengths become cuDNN's own padding mask.

The backward pass needs the statistics of the softmax as well as the output.
Both carry the name that remat policies save; otherwise the forward pass would
run twice although its output is kept.
"""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from ccl_jax.array_types import Array, Float
from ccl_jax.attention.mask import Full, Mask
from ccl_jax.attention.target import CompileTarget


def attend(
  q: Float[Array, "b n k e"],
  k: Float[Array, "b m k e"],
  v: Float[Array, "b m k e"],
  mask: Mask,
  target: CompileTarget,
  name: str | None = None,
  with_lse: bool = False,
) -> Float[Array, "b n k e"]:
  """Computes attention by cuDNN.

  Args:
    name: of the result and of what its gradient needs, for remat policies.

  Raises:
    NotImplementedError: anything but half-precision full attention on a GPU,
      or its log-sum-exp.
  """
  if with_lse:
    raise NotImplementedError("jax has no gradient of cuDNN's log-sum-exp")
  if target.platform != "gpu":
    raise NotImplementedError(
      f"cuDNN needs a GPU, compiling for {target.platform}"
    )
  if not isinstance(mask.pattern, Full) or mask.k_segments is not None:
    raise NotImplementedError(
      f"cuDNN does full attention and key lengths only, got {mask.pattern}"
      f" with segments: {mask.k_segments is not None}"
    )
  if q.dtype not in (jnp.bfloat16, jnp.float16):
    raise NotImplementedError(f"cuDNN needs half precision, got {q.dtype=}")
  if q.shape[-1] % 8 or q.shape[-1] > 128:
    raise NotImplementedError(
      f"cuDNN needs a head size in multiples of 8 up to 128, got {q.shape=}"
    )
  lengths = mask.k_lengths
  if mask.pattern.num_keys is not None:
    most = jnp.full(len(q), mask.pattern.num_keys)
    lengths = most if lengths is None else jnp.minimum(lengths, most)
  return _call(q, k.astype(q.dtype), v.astype(q.dtype), lengths, name)


def _cudnn(q, k, v, lengths):
  return jax.nn.dot_product_attention(
    q, k, v, key_value_seq_lengths=lengths, implementation="cudnn"
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _call(q, k, v, lengths, name):
  return _cudnn(q, k, v, lengths)


def _forward(q, k, v, lengths, name):
  call = functools.partial(_cudnn, lengths=lengths)
  out, backward = jax.vjp(call, q, k, v)
  if name is None:
    return out, backward
  # `backward` is a pytree of the arrays that it needs: the inputs, which are
  # cheap to compute again, the output, and the statistics.
  kept = {id(x): x for x in (q, k, v, lengths)}
  kept[id(out)] = checkpoint_name(out, name)

  def keep(x):
    return kept[id(x)] if id(x) in kept else checkpoint_name(x, name)

  return kept[id(out)], jax.tree.map(keep, backward)


def _backward(name, backward, gradient):
  return *backward(gradient), None


_call.defvjp(_forward, _backward)

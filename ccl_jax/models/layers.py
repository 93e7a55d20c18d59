"""Layers of both streams and of the fusions.

Flax NNX is used as a pytree of parameters only (`Module`, `Param`, `Linear`,
`split`, `merge`); every transform is a plain `jax.*` one. Parameters are
float32; `dtype` is what matrices are multiplied in; norms, modulation and time
are float32.
"""

import functools

import einops
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from ccl_jax.array_types import Array, Float
from ccl_jax.ops import cpu
from ccl_jax.ops.norms import RMSNorm, expand_like
from ccl_jax.params import nnx_utils, trees
from ccl_jax.params.lora import LoRAConfig
from ccl_jax.params.param_names import is_stacked

MLP_HIDDEN = "mlp_hidden"  # its name for remat policies
xavier = nnx.initializers.xavier_uniform()
zeros = nnx.initializers.zeros
ACTIVATIONS = {
  "gelu": functools.partial(nnx.gelu, approximate=False),
  "gelu_tanh": nnx.gelu,
  "silu": nnx.silu,
}


class Linear(nnx.Linear):
  """A linear layer that adds its LoRA, if `add_lora` has given it one."""

  lora = None

  def __call__(self, x: Float[Array, " *b d_in"]) -> Float[Array, " *b d_out"]:
    y = super().__call__(x)
    return y if self.lora is None else y + self.lora(x)


class LoRA(nnx.Module):
  """x -> scale (x A) B, with B = 0 at first; see `ccl_jax.params.lora`."""

  def __init__(
    self, d_in: int, d_out: int, rank: int, scale: float, *, rngs, dtype
  ):
    self.scale, options = scale, dict(rngs=rngs, dtype=dtype, bias=False)
    self.a = linear(d_in, rank, **options)
    self.b = linear(rank, d_out, init=zeros, **options)

  def __call__(self, x: Float[Array, " *b d_in"]) -> Float[Array, " *b d_out"]:
    return self.b(self.a(x)) * self.scale


def linear(
  d_in: int, d_out: int, *, rngs, dtype, init=xavier, bias: bool = True
) -> Linear:
  """Returns a Linear with Wan's initialisation: xavier uniform, zero bias."""
  return Linear(
    d_in, d_out, kernel_init=init, dtype=dtype, param_dtype=jnp.float32,
    dot_general=cpu.dot_general, rngs=rngs, use_bias=bias,
  )  # fmt: skip


def add_lora(model: nnx.Module, config: LoRAConfig, rngs: nnx.Rngs) -> None:
  """Gives a LoRA to the layers that rules match; ValueError if they misfit."""
  params = trees.flatten(nnx.to_pure_dict(nnx.state(model)))
  linears = {
    "/".join(map(str, (*path, "kernel"))): module
    for path, module in nnx.iter_modules(model)
    if isinstance(module, Linear)
  }
  shapes = {path: x.shape for path, x in params.items()}
  for path, rank in config.ranks(shapes, linears).items():
    of, scale = linears[path], config.alpha / rank
    make = functools.partial(
      LoRA, of.in_features, of.out_features, rank, scale, dtype=of.dtype
    )
    of.lora = (
      nnx_utils.stack(lambda r, make=make: make(rngs=r), shapes[path][0], rngs)
      if is_stacked(path)
      else make(rngs=rngs)
    )


def split_heads(
  x: Float[Array, "b n d"], head_size: int
) -> Float[Array, "b n k e"]:
  """Splits the width into heads of head_size channels."""
  return einops.rearrange(x, "b n (k e) -> b n k e", e=head_size)


class Projections(nnx.Module):
  """The q, k, v and output projections of an attention.

  Queries come from a stream of width d, keys and values from one of width
  d_kv; attention runs in d = heads * head_size channels.
  """

  def __init__(
    self, d: int, d_kv: int, head_size: int, *, rngs, dtype, out_init=xavier
  ):
    self.head_size = head_size
    self.q = linear(d, d, rngs=rngs, dtype=dtype)
    self.k = linear(d_kv, d, rngs=rngs, dtype=dtype)
    self.v = linear(d_kv, d, rngs=rngs, dtype=dtype)
    self.o = linear(d, d, rngs=rngs, dtype=dtype, init=out_init)

  def value(self, y: Float[Array, "b m d"]) -> Float[Array, "b m k e"]:
    return split_heads(self.v(y), self.head_size)

  def out(self, x: Float[Array, "b n k e"]) -> Float[Array, "b n d"]:
    return self.o(einops.rearrange(x, "b n k e -> b n (k e)"))


class AttentionProjections(Projections):
  """The same, with queries and keys normalised.

  Queries are projected by `qk_rope.projector`.
  """

  def __init__(
    self, d: int, d_kv: int, head_size: int, *, rngs, dtype, out_init=xavier
  ):
    super().__init__(
      d, d_kv, head_size, rngs=rngs, dtype=dtype, out_init=out_init
    )
    self.norm_q, self.norm_k = RMSNorm(d), RMSNorm(d)

  def key(self, y: Float[Array, "b m d"]) -> Float[Array, "b m k e"]:
    return split_heads(self.norm_k(self.k(y)), self.head_size)


class ExtraKV(nnx.Module):
  """Projections of a second source of keys and values for the same queries."""

  def __init__(self, d: int, d_kv: int, head_size: int, *, rngs, dtype):
    self.head_size = head_size
    self.k = linear(d_kv, d, rngs=rngs, dtype=dtype)
    self.v = linear(d_kv, d, rngs=rngs, dtype=dtype)
    self.norm_k = RMSNorm(d)

  def __call__(
    self, y: Float[Array, "b m d"]
  ) -> tuple[Float[Array, "b m k e"], Float[Array, "b m k e"]]:
    key, value = self.norm_k(self.k(y)), self.v(y)
    return split_heads(key, self.head_size), split_heads(value, self.head_size)


class MLP(nnx.Module):
  """Linear, activation, Linear."""

  def __init__(
    self, d_in: int, d_hidden: int, d_out: int, *, activation: str, rngs, dtype,
    init=xavier, out_init=None,
  ):  # fmt: skip
    self.activation = activation
    out_init = init if out_init is None else out_init
    self.up = linear(d_in, d_hidden, rngs=rngs, dtype=dtype, init=init)
    self.down = linear(d_hidden, d_out, rngs=rngs, dtype=dtype, init=out_init)

  def __call__(self, x: Float[Array, " *b d_in"]) -> Float[Array, " *b d_out"]:
    activate = ACTIVATIONS[self.activation]
    hidden = checkpoint_name(self.up(x), MLP_HIDDEN)
    return self.down(activate(hidden))


def sinusoid(t: Float[Array, " *b"], d: int) -> Float[Array, " *b d"]:
  """Returns [cos, sin] of t * 10000^(-i / (d/2)), i < d/2, in float32."""
  frequency = 1e4 ** (-jnp.arange(d // 2, dtype=jnp.float32) / (d // 2))
  t = t.astype(jnp.float32)[..., None]
  angle = t * expand_like(frequency, t)
  return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], -1)

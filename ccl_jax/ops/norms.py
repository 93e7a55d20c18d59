"""Norms with parameters, computed in float32, for the models and the codecs."""

import jax
import jax.numpy as jnp
from flax import nnx

from ccl_jax.array_types import Array, Float

EPSILON = 1e-6


def expand_like(
  y: Float[Array, " *c"], x: Float[Array, "..."]
) -> Float[Array, "..."]:
  """Returns y with leading axes of size 1, so that it has as many axes as x."""
  return jnp.expand_dims(y, tuple(range(x.ndim - y.ndim)))


def normalize(
  x: Float[Array, " *b d"], epsilon: float = EPSILON
) -> Float[Array, " *b d"]:
  """Returns LayerNorm without scale and bias, in float32."""
  x = x.astype(jnp.float32)
  x = x - x.mean(-1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + epsilon)


class LayerNorm(nnx.Module):
  """LayerNorm with scale and bias, cast back to `x.dtype`."""

  def __init__(self, d: int, epsilon: float = EPSILON):
    self.epsilon = epsilon
    self.scale = nnx.Param(jnp.ones(d))
    self.bias = nnx.Param(jnp.zeros(d))

  def __call__(self, x: Float[Array, " *b d"]) -> Float[Array, " *b d"]:
    scale, bias = (expand_like(p[...], x) for p in (self.scale, self.bias))
    return (normalize(x, self.epsilon) * scale + bias).astype(x.dtype)


class RMSNorm(nnx.Module):
  """x / rms(x) * scale over the channels, cast back to `x.dtype`."""

  def __init__(self, d: int, param_dtype=jnp.float32):
    self.scale = nnx.Param(jnp.ones(d, param_dtype))

  def __call__(self, x: Float[Array, " *b d"]) -> Float[Array, " *b d"]:
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + EPSILON)
    scale = expand_like(self.scale[...], x).astype(jnp.float32)
    return (y * scale).astype(x.dtype)

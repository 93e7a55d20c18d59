"""umT5's encoder: token ids -> one vector per token (arXiv 2304.09151).

    x <- x + W_o softmax(q k^T + B) v              q, k, v of rms(x)      (1)
    x <- x + W_down (gelu(W_gate y) * W_up y)      y = rms(x)             (2)

q is not scaled, nothing has a bias, and gelu is its tanh form. Unlike in T5,
every layer has its own B, one number per head and bucket of distances:

    B[i, j] = bias[bucket(j - i)]                                         (3)

Half of the buckets are for keys behind the query. Of each half, half are for
one distance each; the others grow as its logarithm up to `max_distance`.

Matrices are multiplied in `dtype`; the residual stream, the norms and the
softmax are float32.
"""

import dataclasses
import functools
import math

import einops
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from ccl_jax import nnx_utils
from ccl_jax.array_types import Array, Float, Int, PyTree
from ccl_jax.codecs import stacked
from ccl_jax.sharding import ONE_DEVICE, Layout

EPSILON = 1e-6
# Rows of a batch are split over data and fsdp; kernels are gathered from fsdp
# layer by layer, the table of tokens stays split.
UMT5_RULES = (
  ("tokens", (None, ("fsdp", "tensor"))),
  (".*/(q|k|v|gate|up)/kernel", (None, "fsdp", "tensor")),
  (".*/(o|down)/kernel", (None, "tensor", "fsdp")),
  (".*/(scale|bias)", ()),
)


@dataclasses.dataclass(frozen=True)
class Settings:
  """umT5-xxl, 5.7 billion parameters, unless told otherwise.

  Attributes:
    dtype: of the matrix products.
    param_dtype: of the stored parameters.

  Raises:
    ValueError: sizes that are not positive, or buckets that do not fit.
  """

  vocab: int = 256_384
  width: int = 4096
  ffn: int = 10_240
  heads: int = 64
  head_size: int = 64
  layers: int = 24
  buckets: int = 32
  max_distance: int = 128
  dtype: str = "bfloat16"
  param_dtype: str = "bfloat16"

  def __post_init__(self):
    sizes = {
      k: v for k, v in dataclasses.asdict(self).items() if "dtype" not in k
    }
    if min(sizes.values()) < 1:
      raise ValueError(f"umT5 settings {sizes}: expected all to be positive.")
    if self.buckets % 4 or self.max_distance <= self.buckets // 4:
      raise ValueError(
        f"{self.buckets=} must be a multiple of 4, and {self.max_distance=}"
        " larger than a quarter of it."
      )


class RMSNorm(nnx.Module):
  """x / rms(x) * scale, in float32."""

  def __init__(self, d: int, dtype):
    self.scale = nnx.Param(jnp.ones(d, dtype))

  def __call__(self, x: Float[Array, " *b d"]) -> Float[Array, " *b d"]:
    x = x.astype(jnp.float32)
    x = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + EPSILON)
    return x * self.scale[...].astype(jnp.float32)


class Block(nnx.Module):
  """Eqs. 1 and 2."""

  def __init__(self, s: Settings, rngs: nnx.Rngs):
    def linear(d_in, d_out):
      return nnx.Linear(
        d_in, d_out, use_bias=False, dtype=jnp.dtype(s.dtype),
        param_dtype=jnp.dtype(s.param_dtype), rngs=rngs,
      )  # fmt: skip

    param_dtype = jnp.dtype(s.param_dtype)
    self.dtype, self.heads = jnp.dtype(s.dtype), s.heads
    inner = s.heads * s.head_size
    self.attention_norm = RMSNorm(s.width, param_dtype)
    self.q = linear(s.width, inner)
    self.k = linear(s.width, inner)
    self.v = linear(s.width, inner)
    self.o = linear(inner, s.width)
    self.bias = nnx.Param(jnp.zeros((s.buckets, s.heads), param_dtype))
    self.mlp_norm = RMSNorm(s.width, param_dtype)
    self.gate = linear(s.width, s.ffn)
    self.up = linear(s.width, s.ffn)
    self.down = linear(s.ffn, s.width)

  def __call__(
    self,
    x: Float[Array, "b l d"],
    bucket: Int[Array, "l l"],
    lengths: Int[Array, " b"],
  ) -> Float[Array, "b l d"]:
    """float32 in and out; keys at and beyond a row's length are not seen."""
    y = self.attention_norm(x).astype(self.dtype)
    x = x + self.attend(y, bucket, lengths)
    y = self.mlp_norm(x).astype(self.dtype)
    gate = nnx.gelu(self.gate(y), approximate=True)
    return x + self.down(gate * self.up(y))

  def attend(self, y, bucket, lengths) -> Float[Array, "b l d"]:
    q, k, v = (
      einops.rearrange(f(y), "b l (k e) -> b l k e", k=self.heads)
      for f in (self.q, self.k, self.v)
    )
    logits = jnp.einsum(
      "bike,bjke->bkij", q, k, preferred_element_type=jnp.float32
    )
    seen = jnp.arange(y.shape[1]) < lengths[:, None]
    logits += self.position_bias(bucket)
    logits = jnp.where(seen[:, None, None], logits, -jnp.inf)
    weights = jax.nn.softmax(logits, axis=-1).astype(self.dtype)
    out = jnp.einsum("bkij,bjke->bike", weights, v)
    return self.o(einops.rearrange(out, "b l k e -> b l (k e)"))

  def position_bias(self, bucket: Int[Array, "l l"]) -> Float[Array, "k l l"]:
    """Eq. 3 as a product with one-hot rows: a TPU gathers slowly."""
    bias = self.bias[...].astype(jnp.float32)
    chosen = jax.nn.one_hot(bucket, len(bias), dtype=jnp.float32)
    return jnp.einsum("ijn,nk->kij", chosen, bias, precision="highest")


class Encoder(nnx.Module):
  """All blocks and the norm behind them."""

  def __init__(self, s: Settings, rngs: nnx.Rngs, layout: Layout):
    self.settings, self.layout = s, layout
    self.blocks = nnx_utils.stack(lambda r: Block(s, r), s.layers, rngs)
    self.norm = RMSNorm(s.width, jnp.dtype(s.param_dtype))

  def __call__(
    self, x: Float[Array, "b l d"], lengths: Int[Array, " b"]
  ) -> Float[Array, "b l d"]:
    s = self.settings
    bucket = jnp.asarray(buckets(x.shape[1], s.buckets, s.max_distance))
    x = stacked.scan(
      self.blocks,
      x,
      lambda block, x: block(x, bucket, lengths),
      layout=self.layout,
      path="encoder/blocks/",
      dtype=jnp.dtype(s.dtype),
    )
    return self.norm(x)


class UMT5(nnx.Module):
  """Token ids -> vectors."""

  def __init__(
    self, s: Settings, *, rngs: nnx.Rngs, layout: Layout = ONE_DEVICE
  ):
    init = nnx.initializers.normal(1.0)
    dtype = jnp.dtype(s.param_dtype)
    self.layout = layout
    self.tokens = nnx.Param(init(rngs.params(), (s.vocab, s.width), dtype))
    self.encoder = Encoder(s, rngs, layout)

  def __call__(
    self, ids: Int[Array, "b l"], lengths: Int[Array, " b"]
  ) -> Float[Array, "b l d"]:
    """float32; zero at and beyond each row's length."""
    x = self.tokens[...][ids].astype(jnp.float32)
    x = self.encoder(self.layout.constrain(x, "text"), lengths)
    is_token = jnp.arange(ids.shape[1]) < lengths[:, None]
    return jnp.where(is_token[..., None], x, 0.0)


def buckets(length: int, num: int, max_distance: int) -> Int[np.ndarray, "l l"]:
  """bucket(j - i) of Eq. 3 for queries i and keys j < `length`."""
  offset = np.arange(length)[None] - np.arange(length)[:, None]
  distance, half = np.abs(offset), num // 2
  exact = half // 2
  # In float32, as the model was trained with: it decides which side a
  # distance at the edge of a bucket falls on.
  ratio = np.maximum(distance, exact).astype(np.float32) / np.float32(exact)
  grown = np.log(ratio) / np.float32(math.log(max_distance / exact))
  far = exact + (grown * np.float32(half - exact)).astype(np.int32)
  near = np.where(distance < exact, distance, np.minimum(far, half - 1))
  return (near + half * (offset > 0)).astype(np.int32)


def make_layout(mesh: Mesh | None) -> Layout:
  """Where an encoder's parameters and rows live on a mesh."""
  rows = ((".*", (("data", "fsdp"),)),)
  # In small models norms and biases, which are not split, weigh much.
  return Layout(mesh, params=UMT5_RULES, activations=rows, max_unsharded=1.0)


@functools.lru_cache
def describe(
  settings: Settings, layout: Layout = ONE_DEVICE
) -> tuple[nnx.GraphDef, PyTree]:
  """The static half, and every parameter's shape, dtype and sharding."""

  return nnx_utils.describe(
    lambda: UMT5(settings, rngs=nnx.Rngs(0), layout=layout), layout
  )


@functools.partial(jax.jit, static_argnames=("settings", "layout"))
def encode(
  params: PyTree,
  ids: Int[Array, "b l"],
  lengths: Int[Array, " b"],
  *,
  settings: Settings,
  layout: Layout = ONE_DEVICE,
) -> Float[Array, "b l d"]:
  """Vectors of the tokens before each length (at least 1), zeros behind."""
  return nnx.merge(describe(settings, layout)[0], params)(ids, lengths)

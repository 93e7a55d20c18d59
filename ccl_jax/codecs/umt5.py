"""umT5's encoder: token ids -> one vector per token (arXiv 2304.09151).

    x <- x + W_o softmax(q k^T + B) v              q, k, v of rms(x)      (1)
    x <- x + W_down (gelu(W_gate y) * W_up y)      y = rms(x)             (2)

q is not scaled, nothing has a bias, and gelu is its tanh form. Unlike in T5,
every layer has its own B, one number per head and bucket of distances:

    B[i, j] = bias[bucket(j - i)]                                         (3)

Half of the buckets are for keys before the query, half for keys after it. In
each half, the first half has one bucket per distance; the widths of the others
grow exponentially up to `max_distance`.

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

from ccl_jax.array_types import Array, Float, Int, PyTree
from ccl_jax.ops.norms import RMSNorm
from ccl_jax.params import nnx_utils
from ccl_jax.params.sharding import ONE_DEVICE, Layout

# Kernels are split over fsdp and gathered layer by layer; the token embedding
# stays split.
UMT5_RULES = (
  ("tokens", (None, ("fsdp", "tensor"))),
  (".*/(q|k|v|gate|up)/kernel", (None, "fsdp", "tensor")),
  (".*/(o|down)/kernel", (None, "tensor", "fsdp")),
  (".*/(scale|bias)", ()),
)


@dataclasses.dataclass(frozen=True)
class UMT5Config:
  """Sizes of the encoder; by default umT5-xxl's, 5.7 billion parameters.

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
      raise ValueError(f"umT5 sizes {sizes}: expected all to be positive.")
    if self.buckets % 4 or self.max_distance <= self.buckets // 4:
      raise ValueError(
        f"{self.buckets=} must be a multiple of 4, and {self.max_distance=}"
        " larger than a quarter of it."
      )


class Block(nnx.Module):
  """Self-attention (1) and gated MLP (2)."""

  def __init__(self, config: UMT5Config, rngs: nnx.Rngs):
    dtype, param_dtype = map(jnp.dtype, (config.dtype, config.param_dtype))

    def linear(d_in, d_out):
      return nnx.Linear(
        d_in, d_out, use_bias=False, dtype=dtype, param_dtype=param_dtype,
        rngs=rngs,
      )  # fmt: skip

    self.dtype, self.heads = dtype, config.heads
    d, inner = config.width, config.heads * config.head_size
    self.attention_norm = RMSNorm(d, param_dtype)
    self.q, self.k, self.v = (linear(d, inner) for _ in "qkv")
    self.o = linear(inner, d)
    self.bias = nnx.Param(
      jnp.zeros((config.buckets, config.heads), param_dtype)
    )
    self.mlp_norm = RMSNorm(d, param_dtype)
    self.gate, self.up = (linear(d, config.ffn) for _ in range(2))
    self.down = linear(config.ffn, d)

  def __call__(
    self,
    x: Float[Array, "b l d"],
    bucket: Int[Array, "l l"],
    lengths: Int[Array, " b"],
  ) -> Float[Array, "b l d"]:
    """Returns (2) of (1) in float32; keys after a row's length are masked."""
    y = self.attention_norm(x).astype(self.dtype)
    x = x + self.attend(y, bucket, lengths).astype(x.dtype)
    y = self.mlp_norm(x).astype(self.dtype)
    gate = nnx.gelu(self.gate(y), approximate=True)
    return x + self.down(gate * self.up(y)).astype(x.dtype)

  def attend(self, y, bucket, lengths) -> Float[Array, "b l d"]:
    """Returns the second term of (1)."""
    q, k, v = (
      einops.rearrange(f(y), "b l (k e) -> b l k e", k=self.heads)
      for f in (self.q, self.k, self.v)
    )
    logits = jnp.einsum(
      "bike,bjke->bkij", q, k, preferred_element_type=jnp.float32
    )
    is_token = jnp.arange(y.shape[1])[None] < lengths[:, None]
    logits += self.position_bias(bucket)[None]
    logits = jnp.where(is_token[:, None, None], logits, -jnp.inf)
    weights = jax.nn.softmax(logits, axis=-1).astype(self.dtype)
    out = jnp.einsum("bkij,bjke->bike", weights, v)
    return self.o(einops.rearrange(out, "b l k e -> b l (k e)"))

  def position_bias(self, bucket: Int[Array, "l l"]) -> Float[Array, "k l l"]:
    """Returns (3) for every head."""
    bias = self.bias[...].astype(jnp.float32)
    # A product with one-hot rows, because a TPU gathers slowly.
    one_hot = jax.nn.one_hot(bucket, len(bias), dtype=jnp.float32)
    return jnp.einsum("ijn,nk->kij", one_hot, bias, precision="highest")


class UMT5(nnx.Module):
  """Token ids -> vectors: all blocks and the final norm."""

  def __init__(
    self, config: UMT5Config, *, rngs: nnx.Rngs, layout: Layout = ONE_DEVICE
  ):
    init = nnx.initializers.normal(1.0)
    shape, dtype = (config.vocab, config.width), jnp.dtype(config.param_dtype)
    self.config, self.layout = config, layout
    self.tokens = nnx.Param(init(rngs.params(), shape, dtype))
    blocks = nnx_utils.stack(lambda r: Block(config, r), config.layers, rngs)
    self.encoder = nnx.Dict(blocks=blocks, norm=RMSNorm(config.width, dtype))

  def __call__(
    self, ids: Int[Array, "b l"], lengths: Int[Array, " b"]
  ) -> Float[Array, "b l d"]:
    """Returns float32 vectors; zeros after each row's length."""
    config, length = self.config, ids.shape[1]
    buckets = position_buckets(length, config.buckets, config.max_distance)
    buckets = jnp.asarray(buckets)
    x = self.tokens[...][ids].astype(jnp.float32)
    x = nnx_utils.scan(
      self.encoder.blocks,
      self.layout.constrain(x, "batch"),
      lambda block, x: block(x, buckets, lengths),
      layout=self.layout,
      path="encoder/blocks/",
      dtype=jnp.dtype(config.dtype),
    )
    is_token = jnp.arange(length)[None] < lengths[:, None]
    return jnp.where(is_token[..., None], self.encoder.norm(x), 0.0)


def position_buckets(
  length: int, num: int, max_distance: int
) -> Int[np.ndarray, "l l"]:
  """Returns bucket(j - i) of (3) for queries i and keys j < `length`."""
  offset = np.arange(length)[None] - np.arange(length)[:, None]
  distance, half = np.abs(offset), num // 2
  num_exact = half // 2
  # In float32, as the model was trained: it decides which bucket a distance at
  # an edge falls into.
  ratio = np.maximum(distance, num_exact).astype(np.float32)
  ratio /= np.float32(num_exact)
  growth = np.log(ratio) / np.float32(math.log(max_distance / num_exact))
  far = num_exact + (growth * np.float32(half - num_exact)).astype(np.int32)
  bucket = np.where(distance < num_exact, distance, np.minimum(far, half - 1))
  return (bucket + half * (offset > 0)).astype(np.int32)


@functools.partial(jax.jit, static_argnames=("config", "layout"))
def encode(
  params: PyTree,
  ids: Int[Array, "b l"],
  lengths: Int[Array, " b"],
  *,
  config: UMT5Config,
  layout: Layout = ONE_DEVICE,
) -> Float[Array, "b l d"]:
  """Returns vectors of the tokens before each length (>= 1), then zeros."""
  return nnx_utils.bind(UMT5, config, params, layout=layout)(ids, lengths)

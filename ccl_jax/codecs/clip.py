"""CLIP's image tower up to its penultimate block: what Wan's I2V is told.

    x_0 = norm([class; patches W] + positions)
    x   <- x + W_o attend(q, k, v)                q, k, v of norm(x)
    x   <- x + W_down gelu(W_up norm(x))          gelu by erf, not quick_gelu

The features are x before the last block: 257 tokens of 1280 channels for
ViT-H/14, the first of them the class token. Images become 224 x 224 pixels as
Wan2.1 makes them: both sides by bicubic interpolation with a = -0.75, neither
smoothed before nor cut after, then CLIP's mean and deviation.
"""

import dataclasses
import functools

import einops
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from ccl_jax import nnx_utils
from ccl_jax.array_types import Array, Float, PyTree, UInt8
from ccl_jax.attention import attend
from ccl_jax.codecs import converted_weights, stacked
from ccl_jax.sharding import ONE_DEVICE, Layout, put_rows

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
CLIP_RULES = (
  ("patch/kernel", (None, None, None, "tensor")),
  (".*/(q|k|v|up)/kernel", (None, "fsdp", "tensor")),
  (".*/(o|down)/kernel", (None, "tensor", "fsdp")),
  (".*", ()),  # biases, norms, positions
)


@dataclasses.dataclass(frozen=True)
class Settings:
  """The image tower of open-clip-xlm-roberta-large-vit-huge-14.

  Attributes:
    layers: of the published tower; the last of them is not run, nor kept.
    dtype: of the matrix products.

  Raises:
    ValueError: sizes that do not divide.
  """

  image: int = 224
  patch: int = 14
  width: int = 1280
  ffn: int = 5120
  heads: int = 16
  layers: int = 32
  epsilon: float = 1e-5
  dtype: str = "float32"

  def __post_init__(self):
    if self.image % self.patch or self.width % self.heads or self.layers < 2:
      raise ValueError(
        f"{self}: expected image to be a multiple of patch, width of heads, and"
        " at least 2 layers."
      )

  @property
  def tokens(self) -> int:
    """Patches and the class token."""
    return 1 + (self.image // self.patch) ** 2


class LayerNorm(nnx.Module):
  """With scale and bias, in float32."""

  def __init__(self, d: int, epsilon: float):
    self.epsilon = epsilon
    self.scale = nnx.Param(jnp.ones(d))
    self.bias = nnx.Param(jnp.zeros(d))

  def __call__(self, x: Float[Array, " *b d"]) -> Float[Array, " *b d"]:
    x = x.astype(jnp.float32)
    x = x - x.mean(-1, keepdims=True)
    variance = jnp.square(x).mean(-1, keepdims=True)
    x = x * jax.lax.rsqrt(variance + self.epsilon)
    return x * self.scale[...] + self.bias[...]


class Block(nnx.Module):
  """Self-attention and MLP."""

  def __init__(self, s: Settings, rngs: nnx.Rngs):
    def linear(d_in, d_out):
      return nnx.Linear(d_in, d_out, dtype=jnp.dtype(s.dtype), rngs=rngs)

    self.dtype, self.heads = jnp.dtype(s.dtype), s.heads
    self.attention_norm = LayerNorm(s.width, s.epsilon)
    self.q = linear(s.width, s.width)
    self.k = linear(s.width, s.width)
    self.v = linear(s.width, s.width)
    self.o = linear(s.width, s.width)
    self.mlp_norm = LayerNorm(s.width, s.epsilon)
    self.up = linear(s.width, s.ffn)
    self.down = linear(s.ffn, s.width)

  def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
    y = self.attention_norm(x).astype(self.dtype)
    q, k, v = (
      einops.rearrange(f(y), "b n (k e) -> b n k e", k=self.heads)
      for f in (self.q, self.k, self.v)
    )
    attended = attend(q, k, v)
    x = x + self.o(einops.rearrange(attended, "b n k e -> b n (k e)"))
    y = self.mlp_norm(x).astype(self.dtype)
    return x + self.down(nnx.gelu(self.up(y), approximate=False))


class Encoder(nnx.Module):
  """All blocks but the last."""

  def __init__(self, s: Settings, rngs: nnx.Rngs, layout: Layout):
    self.dtype, self.layout = jnp.dtype(s.dtype), layout
    self.blocks = nnx_utils.stack(lambda r: Block(s, r), s.layers - 1, rngs)

  def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
    return stacked.scan(
      self.blocks,
      x,
      lambda block, x: block(x),
      layout=self.layout,
      path="encoder/blocks/",
      dtype=self.dtype,
    )


class Patch(nnx.Module):
  """Patches -> tokens: a convolution whose stride is its size."""

  def __init__(self, s: Settings, rngs: nnx.Rngs):
    init = nnx.initializers.lecun_normal()
    shape = (s.patch, s.patch, 3, s.width)
    self.dtype = jnp.dtype(s.dtype)
    self.kernel = nnx.Param(init(rngs.params(), shape))

  def __call__(self, x: Float[Array, "b y x 3"]) -> Float[Array, "b n d"]:
    kernel = self.kernel[...].astype(self.dtype)
    patches = einops.rearrange(
      x.astype(self.dtype), "b (h p) (w q) c -> b (h w) (p q c)",
      p=kernel.shape[0], q=kernel.shape[1],
    )  # fmt: skip
    return patches @ einops.rearrange(kernel, "p q c d -> (p q c) d")


class CLIP(nnx.Module):
  """Images as `prepare` makes them -> features."""

  def __init__(
    self, s: Settings, *, rngs: nnx.Rngs, layout: Layout = ONE_DEVICE
  ):
    init = nnx.initializers.normal(s.width**-0.5)
    self.layout = layout
    self.patch = Patch(s, rngs)
    self.class_token = nnx.Param(init(rngs.params(), (s.width,)))
    self.positions = nnx.Param(init(rngs.params(), (s.tokens, s.width)))
    self.norm = LayerNorm(s.width, s.epsilon)
    self.encoder = Encoder(s, rngs, layout)

  def __call__(self, images: Float[Array, "b y x 3"]) -> Float[Array, "b n d"]:
    x = self.patch(images).astype(jnp.float32)
    first = jnp.broadcast_to(self.class_token[...], (len(x), 1, x.shape[-1]))
    x = jnp.concatenate([first, x], 1) + self.positions[...]
    return self.encoder(self.layout.constrain(self.norm(x), "text"))


def prepare(
  images: UInt8[Array, "b y x 3"], size: int
) -> Float[Array, "b size size 3"]:
  """Wan2.1's preprocessing, from pixels of any size."""
  rows, columns = (bicubic(n, size) for n in images.shape[1:3])
  x = jnp.einsum(
    "iy,jx,byxc->bijc", rows, columns, images.astype(jnp.float32) / 255,
    precision="highest",
  )  # fmt: skip
  return (x - jnp.asarray(MEAN)) / jnp.asarray(STD)


def bicubic(n: int, m: int) -> Float[np.ndarray, "m n"]:
  """The matrix that resizes n samples to m, corners not aligned, a = -0.75."""
  a = -0.75
  center = (np.arange(m) + 0.5) * n / m - 0.5
  first = np.floor(center).astype(int) - 1
  matrix = np.zeros((m, n))
  for tap in range(4):
    x = np.abs(center - (first + tap))
    inner = (a + 2) * x**3 - (a + 3) * x**2 + 1
    outer = a * (x**3 - 5 * x**2 + 8 * x - 4)
    weight = np.where(x <= 1, inner, outer)
    source = np.clip(first + tap, 0, n - 1)
    np.add.at(matrix, (np.arange(m), source), weight)
  return matrix.astype(np.float32)


def make_layout(mesh: Mesh | None) -> Layout:
  """Where the tower's parameters and rows live on a mesh."""
  rows = ((".*", (("data", "fsdp"),)),)
  # In small models norms and biases, which are not split, weigh much.
  return Layout(mesh, params=CLIP_RULES, activations=rows, max_unsharded=1.0)


@functools.lru_cache
def describe(
  settings: Settings, layout: Layout = ONE_DEVICE
) -> tuple[nnx.GraphDef, PyTree]:
  """The static half, and every parameter's shape, dtype and sharding."""
  return nnx_utils.describe(
    lambda: CLIP(settings, rngs=nnx.Rngs(0), layout=layout), layout
  )


@functools.partial(jax.jit, static_argnames=("settings", "layout"))
def encode(
  params: PyTree,
  images: UInt8[Array, "b y x 3"],
  *,
  settings: Settings,
  layout: Layout = ONE_DEVICE,
) -> Float[Array, "b n d"]:
  """Penultimate features, float32."""
  model = nnx.merge(describe(settings, layout)[0], params)
  return model(prepare(images, settings.image))


class ImageEncoder:
  """First frames -> features, from a converted folder of weights.

  Args:
    weights: folder written by the converter.
    layout: whose mesh, of this process's devices, images are spread over.
  """

  def __init__(self, weights: str, layout: Layout = ONE_DEVICE):
    self.weights, self.layout = str(weights), make_layout(layout.mesh)

  @functools.cached_property
  def sizes(self) -> Settings:
    """The tower's sizes."""
    return Settings(**converted_weights.about(self.weights)["settings"])

  @functools.cached_property
  def params(self) -> PyTree:
    """Read when they are first used."""
    return converted_weights.read(
      self.weights, describe(self.sizes, self.layout)[1]
    )

  def encode(self, images: np.ndarray) -> Float[np.ndarray, "b n d"]:
    """Features, 257 x 1280 of each of the uint8 images (b y x 3).

    Images of any size and shape; they are not cropped.

    Raises:
      ValueError: no images, or not such ones.
    """
    shape, dtype = np.shape(images), np.asarray(images).dtype
    if len(shape) != 4 or shape[-1] != 3 or 0 in shape or dtype != np.uint8:
      raise ValueError(f"expected uint8 images (b y x 3), got {dtype} {shape}.")
    b = len(images)
    padding = -b % self.layout.batch_shards()
    images = np.concatenate([images, np.repeat(images[-1:], padding, 0)])
    rows = put_rows(self.layout, len(images), range(len(images)), images)
    features = encode(
      self.params, rows, settings=self.sizes, layout=self.layout
    )
    return np.asarray(features)[:b]

  def settings(self) -> dict[str, str]:
    """With no arrays, the constructor's arguments."""
    return {"weights": self.weights}

  def arrays(self) -> dict[str, np.ndarray]:
    return {}

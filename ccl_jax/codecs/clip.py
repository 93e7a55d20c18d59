"""CLIP's image encoder up to its penultimate block, which Wan2.1's I2V reads.

    x_0 = norm([class; patches W] + positions)
    x   <- x + W_o attend(q, k, v)                q, k, v of norm(x)
    x   <- x + W_down gelu(W_up norm(x))          gelu by erf, not quick_gelu

The features are x before the last block: for ViT-H/14 257 tokens of 1280
channels, the first of them the class token. Images are preprocessed as Wan2.1
does: resized to 224 x 224 by bicubic interpolation with a = -0.75, without
antialiasing or cropping, then normalised by CLIP's mean and deviation.
"""

import dataclasses
import functools

import einops
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ccl_jax.array_types import Array, Float, PyTree, UInt8
from ccl_jax.codecs import runner
from ccl_jax.codecs.encoder_block import Block
from ccl_jax.ops.norms import LayerNorm, expand_like
from ccl_jax.params import nnx_utils
from ccl_jax.params.sharding import ONE_DEVICE, Layout

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
CLIP_RULES = (
  ("patch/kernel", (None, None, None, "tensor")),
  (".*/(q|k|v|up)/kernel", (None, "fsdp", "tensor")),
  (".*/(o|down)/kernel", (None, "tensor", "fsdp")),
  (".*", ()),  # biases, norms, positions
)


@dataclasses.dataclass(frozen=True)
class CLIPVisionConfig:
  """Sizes of the image encoder of open-clip-xlm-roberta-large-vit-huge-14.

  Attributes:
    layers: of the published model; the last of them is neither run nor stored.
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
    """Returns the number of patches and the class token."""
    return 1 + (self.image // self.patch) ** 2


class PatchEmbedding(nnx.Module):
  """Patches -> tokens: a convolution whose stride is its size."""

  def __init__(self, config: CLIPVisionConfig, rngs: nnx.Rngs):
    init = nnx.initializers.lecun_normal()
    shape = (config.patch, config.patch, 3, config.width)
    self.dtype = jnp.dtype(config.dtype)
    self.kernel = nnx.Param(init(rngs.params(), shape))

  def __call__(self, x: Float[Array, "b y x 3"]) -> Float[Array, "b n d"]:
    kernel = self.kernel[...].astype(self.dtype)
    patches = einops.rearrange(
      x.astype(self.dtype), "b (h p) (w q) c -> b (h w) (p q c)",
      p=kernel.shape[0], q=kernel.shape[1],
    )  # fmt: skip
    return patches @ einops.rearrange(kernel, "p q c d -> (p q c) d")


class CLIP(nnx.Module):
  """Preprocessed images -> features."""

  def __init__(
    self,
    config: CLIPVisionConfig,
    *,
    rngs: nnx.Rngs,
    layout: Layout = ONE_DEVICE,
  ):
    init, d = nnx.initializers.normal(config.width**-0.5), config.width
    self.layout, self.dtype = layout, jnp.dtype(config.dtype)
    self.patch = PatchEmbedding(config, rngs)
    self.class_token = nnx.Param(init(rngs.params(), (d,)))
    self.positions = nnx.Param(init(rngs.params(), (config.tokens, d)))
    self.norm = LayerNorm(d, config.epsilon)
    blocks = nnx_utils.stack(
      lambda r: Block(config, r, config.epsilon, dtype=self.dtype),
      config.layers - 1,
      rngs,
    )
    self.encoder = nnx.Dict(blocks=blocks)

  def __call__(self, images: Float[Array, "b y x 3"]) -> Float[Array, "b n d"]:
    x = self.patch(images).astype(jnp.float32)
    first = jnp.broadcast_to(self.class_token[...], (len(x), 1, x.shape[-1]))
    x = jnp.concatenate([first, x], 1) + self.positions[None]
    return nnx_utils.scan(
      self.encoder.blocks,
      self.layout.constrain(self.norm(x), "batch"),
      lambda block, x: block(x),
      layout=self.layout,
      path="encoder/blocks/",
      dtype=self.dtype,
    )


def preprocess(
  images: UInt8[Array, "b y x 3"], size: int
) -> Float[Array, "b size size 3"]:
  """Returns images of any size, resized and normalised as Wan2.1 does it."""
  rows, columns = (bicubic_matrix(n, size) for n in images.shape[1:3])
  x = jnp.einsum(
    "iy,jx,byxc->bijc", rows, columns, images.astype(jnp.float32) / 255,
    precision="highest",
  )  # fmt: skip
  mean, std = (expand_like(jnp.asarray(c), x) for c in (MEAN, STD))
  return (x - mean) / std


def bicubic_matrix(n: int, m: int) -> Float[np.ndarray, "m n"]:
  """Returns the matrix that resizes n samples to m.

  Corners are not aligned and a = -0.75, as in PyTorch.
  """
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


@functools.partial(jax.jit, static_argnames=("config", "layout"))
def encode(
  params: PyTree,
  images: UInt8[Array, "b y x 3"],
  *,
  config: CLIPVisionConfig,
  layout: Layout = ONE_DEVICE,
) -> Float[Array, "b n d"]:
  """Returns penultimate features, float32."""
  model = nnx_utils.bind(CLIP, config, params, layout=layout)
  return model(preprocess(images, config.image))


class CLIPImageCodec(runner.LearnedCodec):
  """First frames -> features."""

  module, config_class, rules = CLIP, CLIPVisionConfig, CLIP_RULES

  def encode(self, images: np.ndarray) -> Float[np.ndarray, "b n d"]:
    """Returns the features, 257 x 1280 for each of the uint8 images (b y x 3).

    Images may have any size and shape; they are not cropped.

    Raises:
      ValueError: no images, or of another shape or dtype.
    """
    shape, dtype = np.shape(images), np.asarray(images).dtype
    if len(shape) != 4 or shape[-1] != 3 or 0 in shape or dtype != np.uint8:
      raise ValueError(f"expected uint8 images (b y x 3), got {dtype} {shape}.")
    options = dict(config=self.config, layout=self.layout)
    return runner.run_batch(
      lambda x: encode(self.params, x, **options), self.layout, images
    )

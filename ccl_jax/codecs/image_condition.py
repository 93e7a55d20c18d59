"""Image conditioning of Wan2.1's image-to-video models.

A model reads latents and tokens. The latents are a mask of the known pixel
frames, then the c channels of a clip that is the image followed by grey frames.
Latent frame 0 covers one pixel frame, which is repeated four times in the mask;
the others cover four each. The mask of 1 + 4k frames thus becomes four channels
of 1 + k:

    1  0 0 0 0  0 0 0 0     ->     1 1 1 1 | 0 0 0 0 | 0 0 0 0

The tokens are the features of `codecs.clip`.
"""

from collections.abc import Sequence

import numpy as np

from ccl_jax.array_types import Image, UInt8
from ccl_jax.codecs import api

GREY = 127.5  # 0 in [-1, 1]


def make_image(
  images: UInt8[np.ndarray, "b y x 3"],
  codecs: api.Codecs,
  frames: int,
  *,
  latents: bool,
  tokens: bool,
) -> Image:
  """Returns the conditioning of a batch, from one image per sample.

  Args:
    images: of the size of the clips.
    frames: number of pixel frames of the clips.
    latents, tokens: which of the two the model reads.

  Raises:
    ValueError: tokens without a codec for them.
  """
  if tokens and codecs.image is None:
    raise ValueError(
      "This model reads CLIP's tokens of an image, and its codecs have no CLIP."
      " Encode with --config.encode.weights.image=FILE, or add"
      ' "image": {"kind": "clip", "weights": FOLDER} to codecs/codecs.json,'
      " FOLDER made by python -m ccl_jax.convert from-torch --model=clip."
    )
  return Image(
    make_image_latents(images, codecs.video, frames) if latents else None,
    codecs.image.encode(images) if tokens else None,
  )


def stack_images(
  images: Sequence[np.ndarray], size: tuple[int, int]
) -> UInt8[np.ndarray, "b y x 3"]:
  """Returns images as one array; ValueError for another size or dtype."""
  expected = (*size, 3)
  for i, image in enumerate(images):
    if np.shape(image) != expected or image.dtype != np.uint8:
      raise ValueError(
        f"image {i} is {image.dtype} {np.shape(image)}: expected uint8"
        f" {expected}; data.media.read_image(path, size) scales and crops."
      )
  return np.stack(images)


def make_image_latents(
  images: UInt8[np.ndarray, "b y x 3"], video: api.VideoCodec, frames: int
) -> api.VideoLatents:
  """Returns mask and latents of clips that begin with `images`."""
  clips = np.full((len(images), frames, *images.shape[1:]), GREY, np.float32)
  clips[:, 0] = images
  latents = video.encode(clips)
  mask = np.zeros((*latents.shape[:-1], video.stride[0]), np.float32)
  mask[:, 0] = 1
  return np.concatenate([mask, latents], -1)

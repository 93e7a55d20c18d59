"""What Wan2.1's image-to-video models are told of an image.

The latents are those of a clip that begins with the image and is grey behind
it, c channels, and in front of them a mask of which pixel frames are given.
Latent frame 0 stands for one pixel frame, which counts four times, the others
for four each; so the mask of 1 + 4k frames folds to four channels of 1 + k:

    1  0 0 0 0  0 0 0 0     ->     1 1 1 1 | 0 0 0 0 | 0 0 0 0

The tokens are CLIP's features of the image, as `codecs.clip` makes them.
"""

from collections.abc import Sequence

import einops
import numpy as np

from ccl_jax.array_types import Bool, Float, Image, UInt8
from ccl_jax.codecs.api import Codecs, VideoCodec

GREY = 127.5  # 0 between -1 and 1


def make_image(
  images: UInt8[np.ndarray, "b y x 3"],
  codecs: Codecs,
  frames: int,
  *,
  latents: bool,
  tokens: bool,
) -> Image:
  """What a model is told of images, one of each sample.

  Args:
    images: of the size of the clips.
    frames: of the clips, in pixels.
    latents, tokens: which of the two the model takes.

  Raises:
    ValueError: tokens, and no codec that makes them.
  """
  if tokens and codecs.image is None:
    raise ValueError(
      "This model reads CLIP's tokens of an image, and its codecs have no CLIP."
      " Encode with --config.encode.weights.image=FILE, or add"
      ' "image": {"kind": "clip", "weights": FOLDER} to codecs/codecs.json,'
      " FOLDER made by python -m ccl_jax.convert from-torch --model=clip."
    )
  return Image(
    first_frame(images, codecs.video, frames) if latents else None,
    codecs.image.encode(images) if tokens else None,
  )


def stack_images(
  images: Sequence[np.ndarray], size: tuple[int, int]
) -> UInt8[np.ndarray, "b y x 3"]:
  """Images as one array; raises ValueError where one is not of the size."""
  expected = (*size, 3)
  for i, image in enumerate(images):
    if np.shape(image) != expected or image.dtype != np.uint8:
      raise ValueError(
        f"image {i} is {image.dtype} {np.shape(image)}: expected uint8"
        f" {expected}; data.media.read_image(path, size) scales and crops."
      )
  return np.stack(images)


def first_frame(
  images: UInt8[np.ndarray, "b y x 3"], video: VideoCodec, frames: int
) -> Float[np.ndarray, "b f h w c"]:
  """Mask and latents of clips that begin with `images`."""
  clips = np.full((len(images), frames, *images.shape[1:]), GREY, np.float32)
  clips[:, 0] = images
  latents = video.encode(clips)
  mask = einops.repeat(
    fold_mask(np.arange(frames) == 0, video.stride[0]),
    "f c -> b f h w c",
    **einops.parse_shape(latents, "b _ h w _"),
  )
  return np.concatenate([mask, latents], -1)


def fold_mask(
  given: Bool[np.ndarray, " t"], stride: int
) -> Float[np.ndarray, "f c"]:
  """A mask over 1 + stride k pixel frames as channels of latent frames."""
  given = np.concatenate([np.repeat(given[:1], stride - 1), given])
  folded = einops.rearrange(given, "(f c) -> f c", c=stride)
  return folded.astype(np.float32)

"""Image conditioning; against diffusers see tests/parity."""

import numpy as np
import pytest

from ccl_jax.codecs.image_condition import make_image, stack_images
from tests.data import clips

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 16, 24, 3), np.uint8)


class FakeCLIP:
  def encode(self, images):
    return images.reshape(len(images), -1, 6).astype(np.float32)


def test_what_is_made_of_images():
  codecs = clips.codecs()._replace(image=FakeCLIP())
  image = make_image(IMAGES, codecs, 9, latents=True, tokens=True)
  assert image.latents.shape == (2, 3, 2, 3, 4 + 8)
  assert image.latents.dtype == np.float32
  mask, latents = np.split(image.latents, [4], -1)
  assert (mask[:, 0] == 1).all() and (mask[:, 1:] == 0).all()
  # After the image grey, between two bytes: the same for both samples.
  first = codecs.video.encode(IMAGES[:, None])
  np.testing.assert_allclose(latents[:, :1], first, atol=1e-5)
  np.testing.assert_array_equal(latents[0, 1:], latents[1, 1:])
  ends = [codecs.video.encode(np.full((1, 9, 16, 24, 3), n, np.uint8)) for n in
          (127, 128)]  # fmt: skip
  np.testing.assert_allclose(
    latents[:1, 1:], np.mean(ends, 0)[:, 1:], atol=1e-4
  )
  np.testing.assert_array_equal(image.tokens, FakeCLIP().encode(IMAGES))


def test_each_part_may_be_left_out():
  codecs = clips.codecs()
  image = make_image(IMAGES, codecs, 5, latents=True, tokens=False)
  assert image.latents is not None and image.tokens is None
  with pytest.raises(ValueError, match=r"encode.weights.image=FILE"):
    make_image(IMAGES, codecs, 5, latents=True, tokens=True)


@pytest.mark.parametrize(
  "wrong", [IMAGES[0, 1:], IMAGES[0].astype(np.float32), IMAGES[0, ..., :1]]
)
def test_images_of_another_size_are_told(wrong):
  np.testing.assert_array_equal(stack_images(list(IMAGES), (16, 24)), IMAGES)
  with pytest.raises(ValueError, match=r"image 1 is .*expected uint8 \(16, 24"):
    stack_images([IMAGES[0], wrong], (16, 24))

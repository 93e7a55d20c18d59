"""Clips that begin with an image: told of it, or its latents held fast."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from ccl_jax import trees
from ccl_jax.codecs import clip, converted_weights
from ccl_jax.data.decoding import ClipShape
from ccl_jax.generation.pipeline import Pipeline
from ccl_jax.generation.sampling import SamplingConfig
from ccl_jax.models import joint
from tests import tiny_codecs
from tests.data import clips
from tests.models import tiny

CLIP = clip.Settings(image=14, patch=7, width=16, ffn=24, heads=2, layers=2)
PLAIN = dict(
  tiny.SETTINGS,
  text_width=8,
  video=dict(width=24, ffn=32, heads=1, channels=8, frequency_dim=8),
  audio=dict(
    width=12, ffn=16, heads=1, channels=6, tokens_per_frame=5, frequency_dim=8
  ),
)
TOLD = dict(
  PLAIN, video=PLAIN["video"] | dict(condition_channels=12, image_width=16)
)
IMAGES = np.random.default_rng(0).integers(
  0, 256, (2, *clips.SIZE, 3), np.uint8
)
PROMPTS = ["A disc.", "Two."]


@pytest.fixture(scope="module")
def codecs(tmp_path_factory):
  folder = tmp_path_factory.mktemp("clip") / "weights"
  about = {"model": "clip", "settings": dataclasses.asdict(CLIP)}
  converted_weights.write(
    folder, tiny_codecs.draw(clip.describe(CLIP)[1]), about
  )
  return clips.codecs()._replace(image=clip.ImageEncoder(str(folder)))


def draw(shapes):
  """As `tiny.randomize`, of numpy, which compiles nothing."""
  rng = np.random.default_rng(0)
  leaves = trees.flatten(shapes)
  return trees.unflatten(
    {
      path: np.float32(0.3 * rng.standard_normal(x.shape))
      + path.endswith("/scale")
      for path, x in leaves.items()
    }
  )


@functools.cache
def model(is_told):
  """(settings, graph, parameters)."""
  settings = TOLD if is_told else PLAIN
  graph, shapes = joint.describe(settings)
  return settings, graph, draw(shapes)


def make_pipeline(is_told, codecs):
  settings, graph, params = model(is_told)
  return Pipeline(
    graph,
    params,
    codecs,
    ClipShape(clips.FPS, clips.FRAMES, clips.SIZE),
    SamplingConfig(num_inference_steps=2, solver="euler"),
    0,
    model=settings,
  )


def largest(a, b):
  return float(np.abs(np.asarray(a) - np.asarray(b)).max())


def test_a_model_that_is_told(codecs):
  pipeline = make_pipeline(True, codecs)
  made = pipeline("i2av", PROMPTS, images=list(IMAGES))
  assert [x.video.shape for x in made] == [(clips.FRAMES, *clips.SIZE, 3)] * 2
  assert all(len(x.audio) == clips.SAMPLES for x in made)

  given = pipeline.encode_given("i2av", 2, list(IMAGES), None, None)
  assert given.keys() == {"image"}
  latents = pipeline.latents("i2av", PROMPTS, given)
  # Each sample by itself, whatever else is in the batch, in all variants.
  swapped = jax.tree.map(lambda x: x[::-1], given)
  swapped = pipeline.latents("i2av", PROMPTS[::-1], swapped, seeds=[1, 0])
  for s, x in latents.items():
    assert largest(x[::-1], swapped[s]) < 1e-4 * float(np.abs(x).max())
  # Mask and latents tell, and so do CLIP's tokens.
  image = given["image"]
  for part in (
    image._replace(latents=image.latents[::-1]),
    image._replace(tokens=image.tokens[::-1]),
  ):
    other = pipeline.latents("i2av", PROMPTS, {"image": part})
    assert largest(other["video"], latents["video"]) > 1e-3

  # From clips of the data, the image is what their first latents stand for.
  text = pipeline.embed(PROMPTS)
  data = {
    "video": codecs.video.encode(IMAGES[:, None]), "text": text,
    "null_text": pipeline.embed([""])[0],
  }  # fmt: skip
  again = pipeline.regenerate("i2av", data)
  assert again["video"].shape == latents["video"].shape


def test_a_model_that_is_not_told_keeps_the_first_frame(codecs):
  pipeline = make_pipeline(False, codecs._replace(image=None))
  given = pipeline.encode_given("i2v", 2, list(IMAGES), None, None)
  made = pipeline.latents("i2v", PROMPTS, given)
  np.testing.assert_array_equal(made["video"][:, :1], given["video"])


def test_what_cannot_be_told(codecs):
  lacking = make_pipeline(True, codecs._replace(image=None))
  with pytest.raises(ValueError, match="codecs have no CLIP"):
    lacking("i2v", PROMPTS, images=list(IMAGES))
  plain = make_pipeline(False, codecs)
  with pytest.raises(ValueError, match=r"image 0 is uint8 \(15, 24, 3\)"):
    plain("i2v", PROMPTS, images=list(IMAGES[:, 1:]))
  image = make_pipeline(True, codecs).encode_given(
    "i2v", 2, list(IMAGES), None, None
  )
  with pytest.raises(ValueError, match="no place for them"):
    plain.latents("i2v", PROMPTS, image)

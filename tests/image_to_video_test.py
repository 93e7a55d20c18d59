"""Clips that begin with an image: as a condition, or as fixed latents."""

import functools

import jax
import numpy as np
import pytest

from ccl_jax.codecs import clip
from ccl_jax.data.clip import ClipShape
from ccl_jax.diffusion.tasks import inference_task
from ccl_jax.generation import stages
from ccl_jax.generation.pipeline import Pipeline
from ccl_jax.generation.requests import from_clips
from ccl_jax.generation.sampling_config import SamplingConfig
from ccl_jax.models.plan import make_plan
from ccl_jax.params import trees
from ccl_jax.params.sharding import ONE_DEVICE
from tests import tiny_codecs
from tests.data import clips
from tests.models import tiny

CLIP = clip.CLIPVisionConfig(
  image=14, patch=7, width=16, ffn=24, heads=2, layers=2
)
PLAIN = dict(
  tiny.SETTINGS,
  text_width=8,
  video=dict(width=24, ffn=32, heads=1, channels=8, frequency_dim=8),
  audio=dict(
    width=12, ffn=16, heads=1, channels=6, tokens_per_frame=5, frequency_dim=8
  ),
)
CONDITIONED = dict(
  PLAIN, video=PLAIN["video"] | dict(condition_channels=12, image_width=16)
)
IMAGES = np.random.default_rng(0).integers(
  0, 256, (2, *clips.SIZE, 3), np.uint8
)
PROMPTS = ["A disc.", "Two."]


@pytest.fixture(scope="module")
def codecs(tmp_path_factory):
  folder = tmp_path_factory.mktemp("clip") / "weights"
  tiny_codecs.write_weights(folder, "clip", clip.CLIP, CLIP)
  return clips.codecs()._replace(image=clip.CLIPImageCodec(str(folder)))


def draw(shapes):
  """Returns what `tiny.randomize` does, from numpy, which compiles nothing."""
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
def model(reads_image):
  """(plan, parameters)."""
  plan = make_plan(CONDITIONED if reads_image else PLAIN, ONE_DEVICE)
  return plan, draw(plan.shapes)


def make_pipeline(reads_image, codecs):
  plan, params = model(reads_image)
  return Pipeline(
    plan=plan,
    params=params,
    codecs=codecs,
    shape=ClipShape(clips.FPS, clips.FRAMES, clips.SIZE),
    sampling=SamplingConfig(num_inference_steps=2, solver="euler"),
    step=0,
  )


def sample(pipeline, task, prompts, inputs, seeds=(0, 1)):
  """Latents of embedded prompts and encoded inputs."""
  text = stages.embed(pipeline, prompts)
  negative = stages.embed(pipeline, [""])
  task = inference_task(task)
  return stages.sample(pipeline, task, text, negative, inputs, seeds)[0]


def largest(a, b):
  return float(np.abs(np.asarray(a) - np.asarray(b)).max())


def test_a_model_that_is_told(codecs):
  pipeline = make_pipeline(True, codecs)
  made = pipeline("i2av", PROMPTS, images=list(IMAGES))
  assert [x.video.shape for x in made] == [(clips.FRAMES, *clips.SIZE, 3)] * 2
  assert all(len(x.audio) == clips.SAMPLES for x in made)

  inputs = stages.encode_inputs(pipeline, {"image": list(IMAGES)})
  assert not inputs.latents and inputs.image is not None
  latents = sample(pipeline, "i2av", PROMPTS, inputs)
  # Each sample by itself, whatever else is in the batch, in all variants.
  swapped = jax.tree.map(lambda x: x[::-1], inputs)
  swapped = sample(pipeline, "i2av", PROMPTS[::-1], swapped, seeds=[1, 0])
  for s, x in latents.items():
    assert largest(x[::-1], swapped[s]) < 1e-4 * float(np.abs(x).max())
  # Mask and latents tell, and so do CLIP's tokens.
  image = inputs.image
  for part in (
    image._replace(latents=image.latents[::-1]),
    image._replace(tokens=image.tokens[::-1]),
  ):
    changed = inputs._replace(image=part)
    other = sample(pipeline, "i2av", PROMPTS, changed)
    assert largest(other["video"], latents["video"]) > 1e-3

  # From clips of the data, the image is what their first latents stand for.
  data = {
    "video": codecs.video.encode(IMAGES[:, None]),
    "text": stages.embed(pipeline, PROMPTS),
    "null_text": stages.embed(pipeline, [""])[0],
  }
  again = pipeline.generate(from_clips(inference_task("i2av"), data))
  assert [x.video.shape for x in again] == [x.video.shape for x in made]


def test_a_model_that_is_not_told_keeps_the_first_frame(codecs):
  pipeline = make_pipeline(False, codecs._replace(image=None))
  inputs = stages.encode_inputs(pipeline, {"image": list(IMAGES)})
  made = sample(pipeline, "i2v", PROMPTS, inputs)
  np.testing.assert_array_equal(made["video"][:, :1], inputs.latents["video"])


def test_what_cannot_be_told(codecs):
  lacking = make_pipeline(True, codecs._replace(image=None))
  with pytest.raises(ValueError, match="codecs have no CLIP"):
    lacking("i2v", PROMPTS, images=list(IMAGES))
  plain = make_pipeline(False, codecs)
  with pytest.raises(ValueError, match=r"image 0 is uint8 \(15, 24, 3\)"):
    plain("i2v", PROMPTS, images=list(IMAGES[:, 1:]))
  image = stages.encode_inputs(
    make_pipeline(True, codecs), {"image": list(IMAGES)}
  )
  with pytest.raises(ValueError, match="does not read them"):
    sample(plain, "i2v", PROMPTS, image)

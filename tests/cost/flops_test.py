"""FLOPs by formula equal those of the traced model, and known numbers."""

import dataclasses
import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.array_types import STREAMS, Image, Route
from ccl_jax.attention import Window
from ccl_jax.cost import flops, hlo, matmul
from ccl_jax.models import functional
from ccl_jax.models.fusion.cca import CCA
from ccl_jax.models.fusion.icac import ATTENTIONS
from configs.ccl import get_config

SHAPE = flops.Shape(frames=3, height=8, width=12, text=7, batch=2)
VIDEO = dict(width=64, ffn=128, heads=2, channels=4, patch=2, frequency_dim=16)
AUDIO = dict(
  width=32, ffn=96, heads=2, channels=6, tokens_per_frame=3, frequency_dim=16
)
# Windows of one frame, for which framed attention computes just what is seen.
CCA_ONE_FRAME = dict(
  kind="cca",
  num_audio_lct=2,
  num_video_lct=3,
  audio_window_radius=0,
  video_window_radius=0,
)
# Audio tokens in the video's blocks.
IN_CONTEXT = VIDEO | dict(in_context=True, tokens_per_frame=3)
IN_CONTEXT.pop("patch")
# The same in the blocks of an image model.
SHARED = IN_CONTEXT | dict(backbone="shared")
for name in ("in_context", "frequency_dim"):
  SHARED.pop(name)
ALONE = dict(kind="independent")
CASES = (
  {
    "cca": dict(fusion=CCA_ONE_FRAME),
    "gated": dict(fusion=dict(kind="gated"), backend="reference"),
    "video": dict(audio=None, fusion=ALONE),
    "audio": dict(video=None, fusion=ALONE),
  }
  | {
    attention: dict(
      audio=IN_CONTEXT, fusion=dict(kind="icac", attention=attention)
    )
    for attention in ATTENTIONS
  }
  | {
    kind: dict(
      video=VIDEO | dict(backbone="dit"),
      audio=audio,
      fusion=dict(kind=kind, **fusion),
    )
    for kind, audio, fusion in (
      ("avdit", SHARED, dict(lora_rank=3, adapter_ratio=0.5, window_radius=0)),
      ("frames", None, {}),
    )
  }
  | {
    "image": dict(
      video=VIDEO | dict(condition_channels=5, image_width=20),
      audio=None,
      fusion=ALONE,
    ),
  }
)


def settings(**changes):
  model = dict(
    num_layers=2, text_width=48, dtype="float32", video=VIDEO, audio=AUDIO
  )
  return model | changes


def lower(model, shape, is_train=False):
  """The traced velocity, or its gradient; nothing is computed."""
  graph, params = functional.describe(model)
  b, f = shape.batch, shape.frames

  def array(*dims, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(dims, dtype)

  state, t = {}, {}
  if model["video"]:
    channels = model["video"]["channels"]
    state["video"] = array(b, f, shape.height, shape.width, channels)
    t["video"] = array(b) if shape.times == 1 else array(b, f, 1)
  if model["audio"]:
    c = model["audio"]["tokens_per_frame"]
    state["audio"] = array(b, f * c, model["audio"]["channels"])
    t["audio"] = array(b)
  each = array(b, dtype=jnp.bool_)
  route = Route(
    dict.fromkeys(STREAMS, each), dict.fromkeys(STREAMS, each), each
  )
  text = array(b, shape.text, model["text_width"])
  image = None
  if shape.image:
    condition = array(b, f, shape.height, shape.width, 5)
    image = Image(condition, array(b, shape.image, 20))
  if r := shape.pictures:
    pictures = array(b, r, shape.height, shape.width, channels)
    has = array(b, r, dtype=jnp.bool_)
    image = Image(references=pictures, has_references=has)
  velocity = functools.partial(functional.velocity, graph)

  def loss(*args):
    return sum(jnp.square(v).sum() for v in velocity(*args).values())

  run = jax.grad(loss) if is_train else velocity
  return jax.jit(run).lower(params, state, t, text, route, image)


def traced(model, shape, is_train=False):
  """FLOPs of the matrix products, with the scan over layers."""
  text = lower(model, shape, is_train).as_text(dialect="hlo")
  return matmul.matmul_flops(hlo.parse(text))


@pytest.mark.usefixtures("framed_windows")
@pytest.mark.parametrize("name", CASES)
def test_forward_is_exact(name):
  model = settings(**CASES[name])
  shape = dataclasses.replace(SHAPE, image=9 if name == "image" else 0)
  expected = shape.batch * sum(flops.forward_flops(model, shape).values())
  assert traced(model, shape) == expected


def test_time_per_frame_is_exact():
  shape = flops.Shape(3, 8, 12, text=7, batch=2, times=3)
  model = settings(audio=None, fusion=ALONE)
  expected = shape.batch * sum(flops.forward_flops(model, shape).values())
  assert traced(model, shape) == expected


@pytest.mark.usefixtures("framed_windows")
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_pictures_run_as_frames_whose_sound_does_not_count(attention):
  f, r = SHAPE.frames, 2
  shape = dataclasses.replace(SHAPE, times=f + r, pictures=r)
  fusion = dict(kind="icac", attention=attention, references=True)
  model = settings(audio=IN_CONTEXT, fusion=fusion)
  padded = dataclasses.replace(SHAPE, frames=f + r, times=f + r)
  executed = SHAPE.batch * sum(flops.forward_flops(model, padded).values())
  assert traced(model, shape) == executed

  def pairs(x, y):
    frames_meet = np.equal.outer(x, y) | (attention == "full3d")
    return frames_meet.sum()

  video = np.repeat(np.arange(f + r), SHAPE.tokens_per_frame("video", VIDEO))
  audio = np.repeat(np.arange(f), IN_CONTEXT["tokens_per_frame"])
  has_3d = "3d" in attention
  own = pairs(video, video) if attention.startswith("self2d") else 0
  expected = {"video/cross_attention": pairs(video, audio) + own}
  if has_3d or attention == "self2d":
    name = "audio/self_attention" if has_3d else "audio/cross_attention"
    expected[name] = pairs(audio, audio) + pairs(audio, video)
  found = flops.forward_flops(model, shape)
  cost = model["num_layers"] * 4 * VIDEO["width"]
  for name, num in expected.items():
    assert found[name] == cost * num, name


def test_joint_attention_of_adapters_counts_what_its_window_shows():
  fusion = dict(kind="avdit", window_radius=1)
  model = settings(**CASES["avdit"] | dict(fusion=fusion))
  s = SHAPE.tokens_per_frame("video", VIDEO) + SHARED["tokens_per_frame"]
  found = flops.forward_flops(model, SHAPE)["joint/self_attention"]
  pairs = flops.window_pairs(SHAPE.frames, s, s, radius=1)
  assert found == model["num_layers"] * 4 * VIDEO["width"] * pairs


def test_training_is_three_times_forward():
  """Less by the gradients that latents, text and time do not need."""
  model = settings(**CASES["video"])
  expected = SHAPE.batch * sum(flops.train_flops(model, SHAPE).values())
  assert 0.98 * expected < traced(model, SHAPE, is_train=True) <= expected


def test_xla_agrees_where_products_dominate():
  video = dict(VIDEO, width=512, ffn=2048, heads=4)
  model = settings(
    video=video, audio=None, fusion=ALONE, scan=False, num_layers=1
  )
  shape = flops.Shape(2, 16, 16, text=64)
  counted = lower(model, shape).cost_analysis()["flops"]
  expected = sum(flops.forward_flops(model, shape).values())
  assert 1 <= counted / expected < 1.03


@pytest.mark.parametrize("radius", [0, 1, 2, 9])
def test_window_pairs_are_those_of_the_mask(radius):
  f, q, k, context = 5, 3, 2, 4
  seen = Window(q, k, radius, context).visible(
    np.arange(f * q)[:, None], np.arange(context + f * k)
  )
  assert flops.window_pairs(f, q, k, radius, context) == seen.sum()


def test_defaults_are_those_of_the_fusion():
  parameters = inspect.signature(CCA.__init__).parameters
  for name, value in flops.FUSION_DEFAULTS["cca"].items():
    assert parameters[name].default == value, name


@pytest.mark.parametrize(
  "shape, published",
  [(flops.Shape(31, 44, 80), 3.79e15), (flops.Shape(21, 90, 160), 1.957e16)],
)
def test_wan_14b_as_others_count_it(shape, published):
  model = get_config("size=14b").model.to_dict() | dict(audio=None)
  total = sum(flops.train_flops(model, shape).values())
  assert abs(total / published - 1) < 0.015


def test_cca_is_a_tenth_of_the_paper_size():
  model = get_config("size=14b").model.to_dict()
  parts = flops.forward_flops(model, flops.Shape(31, 44, 80))
  cross = sum(v for k, v in parts.items() if "cross" in k)
  assert 0.09 < cross / sum(parts.values()) < 0.12


def test_an_unknown_fusion_is_named():
  with pytest.raises(ValueError, match="gated"):
    flops.forward_flops(settings(fusion=dict(kind="icac")), SHAPE)

"""Small joint models of every kind, with heads that split unevenly."""

import functools

import jax.numpy as jnp
import numpy as np

from ccl_jax.models import functional
from ccl_jax.models.fusion.icac import ATTENTIONS
from ccl_jax.params import trees
from tests.models import tiny

CCA = tiny.SETTINGS | dict(
  video=tiny.SETTINGS["video"] | dict(width=32, ffn=40, heads=2),
  audio=tiny.SETTINGS["audio"] | dict(width=20, ffn=24, heads=2),
)
IMAGE = dict(condition_channels=4, image_width=7)


def cca(**fusion):
  return CCA | dict(fusion=CCA["fusion"] | fusion)


def at_24_fps(**fusion):
  audio = CCA["audio"] | dict(tokens_per_frame=125 / 24)
  return cca(**fusion) | dict(audio=audio)


def in_context(c=2, **fusion):
  audio = dict(
    in_context=True, width=32, ffn=40, heads=2, channels=2, tokens_per_frame=c
  )
  return CCA | dict(audio=audio, fusion={"kind": "icac"} | fusion)


def adapted(c=2, prediction_type="flow_prediction", **fusion):
  sizes = dict(width=32, ffn=40, heads=2)
  video = dict(backbone="dit", channels=3, patch=2, frequency_dim=8)
  audio = dict(backbone="shared", channels=2, tokens_per_frame=c)
  sizes |= dict(prediction_type=prediction_type)
  return CCA | dict(
    video=video | sizes,
    audio=audio | sizes,
    fusion=dict(kind="avdit", lora_rank=3) | fusion,
  )


MODELS = {
  "cca": cca(),
  "fine": cca(positions="fine", audio_window_radius=0, video_window_radius=1),
  "no tarp": cca(tarp=False),
  "no dcr": cca(dcr=False),
  "one context": cca(num_video_lct=0),
  "24 fps": at_24_fps(),
  "24 fps, fine": at_24_fps(positions="fine"),
  "24 fps, no tarp": at_24_fps(tarp=False),
  "24 fps, gated": at_24_fps() | dict(fusion=dict(kind="gated", tarp=True)),
  "image": CCA | dict(video=CCA["video"] | IMAGE),
  **{
    f"in context, {attention}": in_context(attention=attention, references=True)
    for attention in ATTENTIONS
  },
  "in context, unequal frames": in_context(125 / 24, rope_audio="same_t_zero"),
  "in context, unturned": in_context(attention="full3d", rope_audio="none"),
  "adapted": adapted(),
  "adapted, 24 fps": adapted(125 / 24, adapter_ratio=0.5),
  "adapted, noise": adapted(prediction_type="epsilon"),
  "images": adapted() | dict(audio=None, fusion=dict(kind="frames")),
  "gated": CCA | dict(fusion=dict(kind="gated")),
  "gated tarp": CCA | dict(fusion=dict(kind="gated", tarp=True)),
  "video": CCA | dict(audio=None, fusion=dict(kind="independent")),
  "audio": CCA | dict(video=None, fusion=dict(kind="independent")),
}


@functools.cache
def describe(kind, compute):
  """(graph, shapes) of a model that computes in a dtype."""
  return functional.describe(MODELS[kind] | {"dtype": compute})


@functools.cache
def draw(kind, dtype="float32", compute="float32"):
  """(graph, parameters)."""
  graph, shapes = describe(kind, compute)
  return graph, random_like(shapes, dtype)


def random_like(shapes, dtype="float32"):
  """Nothing is zero or one, so that all of it shows."""
  rng = np.random.default_rng(0)

  def leaf(path, x):
    fan_in = x.shape[-2] if path.endswith("kernel") else 10
    noise = rng.standard_normal(x.shape) / fan_in**0.5
    return jnp.asarray(noise + path.endswith("scale"), dtype)

  leaves = trees.flatten(shapes).items()
  return trees.unflatten({path: leaf(path, x) for path, x in leaves})

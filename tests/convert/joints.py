"""Small joint models of every kind, with heads that split unevenly."""

import functools

import jax.numpy as jnp
import numpy as np

from ccl_jax import trees
from ccl_jax.models import joint

CCA = dict(
  num_layers=2,
  text_width=6,
  dtype="float32",
  video=dict(width=32, ffn=40, heads=2, channels=3, patch=2, frequency_dim=8),
  audio=dict(
    width=20, ffn=24, heads=2, channels=2, tokens_per_frame=2, frequency_dim=8
  ),
  fusion=dict(kind="cca", audio_context=2, video_context=3),
)


def cca(**fusion):
  return CCA | dict(fusion=CCA["fusion"] | fusion)


MODELS = {
  "cca": cca(),
  "fine": cca(positions="fine", audio_half=0, video_half=1),
  "no tarp": cca(tarp=False),
  "no dcr": cca(dcr=False),
  "one context": cca(video_context=0),
  "gated": CCA | dict(fusion=dict(kind="gated")),
  "gated tarp": CCA | dict(fusion=dict(kind="gated", tarp=True)),
  "independent": CCA | dict(fusion=dict(kind="independent")),
  "video": CCA | dict(audio=None, fusion=dict(kind="independent")),
  "audio": CCA | dict(video=None, fusion=dict(kind="independent")),
}


@functools.cache
def describe(kind, compute):
  """(graph, shapes) of a model that computes in a dtype."""
  return joint.describe(MODELS[kind] | {"dtype": compute})


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

"""A model and a batch for meshes of eight devices."""

import functools

import numpy as np

from tests.models import tiny

MODEL = tiny.SETTINGS | {
  "video": tiny.SETTINGS["video"] | {"width": 32, "heads": 4},
  "audio": tiny.SETTINGS["audio"] | {"width": 32, "heads": 4},
  "remat": "full",
  "text_width": 8,
}
FRAMES = 3  # neither the context axis 2 nor 4 divides it
# What a slack of 2 % would say of a model whose kernels are as small.
SMALL = {"max_unsharded": 0.2}


def batch(b=8):
  rng = np.random.default_rng(0)
  normal = functools.partial(rng.standard_normal, dtype=np.float32)
  return {
    "video": normal((b, FRAMES, 4, 4, 3)),
    "audio": normal((b, FRAMES * 2, 2)),
    "text": normal((b, 5, 8)),
    "null_text": normal((5, 8)),
    "has_video": np.ones(b, bool),
    "has_audio": np.arange(b) != 3,
  }

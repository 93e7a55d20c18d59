"""Wan's, MMAudio's and umT5's codecs, tiny and with random weights, on disk."""

import dataclasses

import jax
import numpy as np

from ccl_jax import nnx_utils
from ccl_jax.codecs import (
  bigvgan,
  converted_weights,
  mmaudio_vae,
  umt5,
  wan_vae,
)
from tests.codecs import vocabulary

VIDEO = wan_vae.Settings(
  base=4, multipliers=(1, 2, 2, 2), residuals=1, channels=4,
  mean=(0.1, -0.1, 0.05, 0.0), deviation=(0.2, 0.16, 0.24, 0.18),
)  # fmt: skip
AUDIO = mmaudio_vae.Settings(
  channels=4, width=8, multipliers=(1, 2), num_blocks=1
)
VOCODER = bigvgan.Settings(
  width=8, rates=(16, 16), kernels=(32, 32), block_kernels=(3,), dilations=(1,)
)
TEXT = umt5.Settings(
  vocab=64, width=16, ffn=24, heads=4, head_size=4, layers=2,
  dtype="float32", param_dtype="float32",
)  # fmt: skip


def write(folder):
  """Folders of weights in `folder`; returns `encode.weights`."""
  models = {
    "video": ("wan-vae", VIDEO, wan_vae.param_shapes(VIDEO)),
    "audio": (
      "mmaudio", AUDIO, nnx_utils.param_shapes(mmaudio_vae.MMAudioVAE, AUDIO)
    ),
    "vocoder": (
      "bigvgan", VOCODER, nnx_utils.param_shapes(bigvgan.BigVGAN, VOCODER)
    ),
    "text": ("umt5", TEXT, umt5.describe(TEXT)[1]),
  }  # fmt: skip
  for name, (model, settings, shapes) in models.items():
    about = {"model": model, "settings": dataclasses.asdict(settings)}
    converted_weights.write(folder / name, draw(shapes), about)
  (folder / "spiece.model").write_bytes(vocabulary.train())
  paths = {name: str(folder / name) for name in models}
  return paths | {"tokenizer": str(folder / "spiece.model")}


def draw(shapes):
  """As large as keeps what goes through about as large."""
  rng = np.random.default_rng(0)

  def one(x):
    std = 0.2 if x.ndim < 2 else np.prod(x.shape[:-1]) ** -0.5
    return rng.normal(0, std, x.shape).astype(np.float32)

  drawn = jax.tree.map(one, shapes)
  if "std" in drawn:
    drawn["std"] = 1 + np.abs(drawn["std"])
  return drawn

"""The paper's codecs and Wav2Vec2, tiny and with random weights, on disk."""

import dataclasses

import jax
import numpy as np

from ccl_jax.codecs import (
  bigvgan,
  converted_weights,
  mmaudio_vae,
  umt5,
  wan_vae,
  wav2vec2,
)
from ccl_jax.params import nnx_utils
from tests.codecs import vocabulary

VIDEO = wan_vae.WanVAEConfig(
  base=4, multipliers=(1, 2, 2, 2), residuals=1, channels=4,
  mean=(0.1, -0.1, 0.05, 0.0), deviation=(0.2, 0.16, 0.24, 0.18),
)  # fmt: skip
AUDIO = mmaudio_vae.MMAudioVAEConfig(
  channels=4, width=8, multipliers=(1, 2), num_blocks=1
)
VOCODER = bigvgan.BigVGANConfig(
  width=8, rates=(16, 16), kernels=(32, 32), block_kernels=(3,), dilations=(1,)
)
TEXT = umt5.UMT5Config(
  vocab=64, width=16, ffn=24, heads=4, head_size=4, layers=2,
  dtype="float32", param_dtype="float32",
)  # fmt: skip
SPEECH = wav2vec2.Wav2Vec2Config(
  width=8, ffn=12, heads=2, layers=2, channels=6, positions=4, groups=2
)
MODELS = {
  "video": ("wan-vae", wan_vae.Autoencoder, VIDEO),
  "audio": ("mmaudio", mmaudio_vae.MMAudioVAE, AUDIO),
  "vocoder": ("bigvgan", bigvgan.BigVGAN, VOCODER),
  "text": ("umt5", umt5.UMT5, TEXT),
}


def write(folder):
  """Writes all weights and a tokenizer; returns `encode.weights`."""
  paths = {name: write_weights(folder / name, *MODELS[name]) for name in MODELS}
  (folder / "spiece.model").write_bytes(vocabulary.train())
  return paths | {"tokenizer": str(folder / "spiece.model")}


def write_weights(path, model, make, config):
  """Writes random weights of a model; returns their folder."""
  metadata = {"model": model, "settings": dataclasses.asdict(config)}
  params = draw(nnx_utils.param_shapes(make, config))
  converted_weights.write(path, params, metadata)
  return str(path)


def draw(shapes):
  """Returns parameters that keep the magnitude of activations."""
  rng = np.random.default_rng(0)

  def one(x):
    std = 0.2 if x.ndim < 2 else np.prod(x.shape[:-1]) ** -0.5
    return rng.normal(0, std, x.shape).astype(np.float32)

  drawn = jax.tree.map(one, shapes)
  if "std" in drawn:
    drawn["std"] = 1 + np.abs(drawn["std"])
  return drawn

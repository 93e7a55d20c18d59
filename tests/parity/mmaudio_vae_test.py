"""Our sound VAE against diffusers', and its names in MMAudio's own files."""

import jax
import numpy as np
import pytest

from ccl_jax.codecs import mmaudio_vae
from ccl_jax.codecs.mmaudio_vae import MMAudioVAE
from ccl_jax.convert import matching, mmaudio
from ccl_jax.convert.state_dict import iter_state_dict
from ccl_jax.params import nnx_utils, trees
from tests.convert.loading import from_dict, load

SMALL = mmaudio_vae.MMAudioVAEConfig(num_mels=10, channels=4, width=12)


def build(config):
  import diffusers

  return diffusers.MMAudioVAE(
    mel_bins=config.num_mels,
    latent_channels=config.channels,
    hidden_channels=config.width,
    channel_multipliers=config.multipliers,
    layers_per_block=config.num_blocks,
  )


@pytest.fixture(scope="module")
def theirs():
  """Random parameters and statistics, none near zero."""
  import torch

  torch.manual_seed(0)
  model = build(SMALL).requires_grad_(False).eval()
  for x in model.parameters():
    std = 0.3 if x.ndim == 0 else x[0].numel() ** -0.5
    torch.nn.init.normal_(x, std=std)
  model.vae.data_mean.normal_()
  model.vae.data_std.uniform_(0.5, 2)
  return model


def arrays(model):
  return {name: x.numpy() for name, x in model.state_dict().items()}


def loaded(table, arrays):
  shapes = nnx_utils.param_shapes(MMAudioVAE, SMALL)
  return load(from_dict(arrays), table, shapes)


@jax.jit
def encode(params, mel):
  return nnx_utils.bind(MMAudioVAE, SMALL, params).encode(mel)


@jax.jit
def decode(params, z):
  return nnx_utils.bind(MMAudioVAE, SMALL, params).decode(z)


def draw(*shape):
  return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def difference(a, b):
  return np.abs(a - b).max() / np.abs(b).max()


def test_encoder(theirs):
  import torch

  mel = 2 * draw(2, 27, 10)
  moments = theirs.vae.encode(torch.from_numpy(mel).mT).mT.numpy()
  expected = np.split(moments, 2, axis=-1)
  ours = encode(loaded(mmaudio.DIFFUSERS, arrays(theirs)), mel)
  for x, y in zip(ours, expected, strict=True):
    assert x.shape == (2, 13, 4) and y.std() > 0.1
    assert difference(np.asarray(x), y) < 1e-4


def test_decoder(theirs):
  import torch

  z = draw(2, 13, 4)
  expected = theirs.decode(torch.from_numpy(z).mT).sample.mT.numpy()
  ours = decode(loaded(mmaudio.DIFFUSERS, arrays(theirs)), z)
  assert ours.shape == (2, 26, 10) and expected.std() > 0.1
  assert difference(np.asarray(ours), expected) < 1e-4


def test_kernels_of_mmaudio_are_normalised_when_loaded(theirs):
  """As its `remove_weight_norm` does; the result equals diffusers' kernels."""
  raw = own_names(arrays(theirs))
  plain = dict(raw)
  for name, w in raw.items():
    if name.endswith("weight"):
      raw[name] = w * np.float32(1.7 * w[0].size ** 0.5)
      rms = np.sqrt((raw[name] ** 2).mean((1, 2), keepdims=True))
      plain[name] = raw[name] / (1e-4 + rms) / np.sqrt(w[0].size)
  ours = loaded(mmaudio.MMAUDIO, raw)
  named = {f"vae.{name}": np.asarray(x, "f") for name, x in plain.items()}
  expected = trees.flatten(loaded(mmaudio.DIFFUSERS, named))
  for path, x in trees.flatten(ours).items():
    np.testing.assert_allclose(x, expected[path], rtol=1e-5, err_msg=path)
  theirs = dict(iter_state_dict(ours, mmaudio.MMAUDIO))
  again = loaded(mmaudio.MMAUDIO, theirs)
  for path, x in trees.flatten(again).items():
    np.testing.assert_allclose(x, expected[path], rtol=1e-5, err_msg=path)


def test_kernels_that_are_too_large_cannot_be_written_as_mmaudio(theirs):
  params = loaded(mmaudio.DIFFUSERS, arrays(theirs))
  with pytest.raises(ValueError, match="can only hold kernels of norm below 1"):
    dict(iter_state_dict(params, mmaudio.MMAUDIO))


@pytest.mark.parametrize(
  "config", [mmaudio_vae.MMAUDIO_16K, mmaudio_vae.MMAUDIO_44K],
  ids=["16k", "44k"],
)  # fmt: skip
def test_published_sizes_map_one_to_one(config):
  import torch

  with torch.device("meta"):
    theirs = build(config).state_dict()
  theirs = {
    name: jax.ShapeDtypeStruct(tuple(x.shape), np.dtype("float32"))
    for name, x in theirs.items()
  }
  shapes = trees.flatten(nnx_utils.param_shapes(MMAudioVAE, config))
  matching.match(mmaudio.DIFFUSERS, theirs, shapes)
  matching.match(mmaudio.MMAUDIO, own_names(theirs), shapes)


def own_names(arrays):
  """Returns the arrays under the names in MMAudio's own files."""
  return {
    name.removeprefix("vae."): x
    for name, x in arrays.items()
    if name.startswith("vae.")
  }

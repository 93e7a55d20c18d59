"""Our vocoder against diffusers', and its names in the published files."""

import functools

import jax
import numpy as np
import pytest

from ccl_jax.codecs import bigvgan
from ccl_jax.codecs.bigvgan import BigVGAN
from ccl_jax.convert import bigvgan as tables
from ccl_jax.convert import matching
from ccl_jax.params import nnx_utils, trees
from tests.convert.loading import from_dict, load

SIZES = dict(rates=(4, 2), kernels=(8, 4), block_kernels=(3, 5))
SMALL = bigvgan.BigVGANConfig(
  num_mels=6, width=16, dilations=(1, 3), tanh=False, bias=False, **SIZES
)


def vocoder(config):
  from diffusers.models.autoencoders.mmaudio_vocoder import MMAudioVocoder

  return MMAudioVocoder(
    num_mels=config.num_mels,
    upsample_initial_channel=config.width,
    upsample_rates=config.rates,
    upsample_kernel_sizes=config.kernels,
    resblock_kernel_sizes=config.block_kernels,
    resblock_dilation_sizes=(config.dilations,) * len(config.block_kernels),
  )


def first_version(config):
  """Returns BigVGAN v1: its last convolution has a bias, and then a tanh."""
  import torch

  model = vocoder(config)
  model.conv_post = torch.nn.Conv1d(
    model.conv_post.in_channels, 1, 7, padding=3
  )
  return model


def redraw(model):
  """Random parameters, none near zero: what was left out would show."""
  import torch

  torch.manual_seed(0)
  for name, x in model.named_parameters():
    inputs = x[:, 0] if name.startswith("ups.") and x.ndim > 1 else x[0]
    scale = 0.4 if name.startswith("conv_post") else 1.0
    std = 0.3 if x.ndim == 1 else scale * inputs.numel() ** -0.5
    torch.nn.init.normal_(x, std=std)
  return model.requires_grad_(False).eval()


def arrays(model):
  return {name: x.numpy() for name, x in model.state_dict().items()}


def ours(config, table, arrays, mel):
  shapes = nnx_utils.param_shapes(BigVGAN, config)
  params = load(from_dict(arrays), table, shapes)
  return np.asarray(vocode(params, mel, config))


@functools.partial(jax.jit, static_argnames="config")
def vocode(params, mel, config):
  return nnx_utils.bind(BigVGAN, config, params)(mel)


def difference(a, b):
  return np.abs(a - b).max() / np.abs(b).max()


@pytest.fixture(scope="module")
def mel():
  return np.random.default_rng(0).normal(size=(2, 24, 6)).astype("f")


def test_second_version(mel):
  import torch

  model = redraw(vocoder(SMALL))
  theirs = model(torch.from_numpy(mel).mT).sample[:, 0].numpy()
  assert theirs.std() > 0.1 and (np.abs(theirs) == 1).mean() < 0.1
  wave = ours(SMALL, tables.DIFFUSERS, arrays(model), mel)
  assert difference(wave, theirs) < 1e-4


@pytest.mark.parametrize("parametrized", [False, True])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_first_version_with_weight_norms(mel, parametrized):
  """Names and arrays as PyTorch makes them, by its old way and its new one."""
  import torch

  model = redraw(first_version(SMALL))
  raw = []
  model.conv_post.register_forward_hook(lambda *x: raw.append(x[2]))
  norm = (
    torch.nn.utils.parametrizations.weight_norm
    if parametrized
    else torch.nn.utils.weight_norm
  )
  for module in list(model.modules()):
    if isinstance(module, (torch.nn.Conv1d, torch.nn.ConvTranspose1d)):
      norm(module)
  for name, x in model.named_parameters():
    if name.endswith(("weight_g", "original0")):
      x.requires_grad_(False).mul_(torch.rand_like(x) + 0.5)
  with torch.no_grad():
    model(torch.from_numpy(mel).mT)
  theirs = np.tanh(raw[0][:, 0].numpy())
  assert theirs.std() > 0.1 and (np.abs(theirs) > 0.99).mean() < 0.1
  config = bigvgan.BigVGANConfig(
    num_mels=6, width=16, dilations=(1, 3), **SIZES
  )
  table = tables.PARAMETRIZED if parametrized else tables.BIGVGAN
  wave = ours(config, table, arrays(model), mel)
  assert difference(wave, theirs) < 1e-4


OLD = ("weight_g", "weight_v")
NEW = ("parametrizations.weight.original0", "parametrizations.weight.original1")


@pytest.mark.parametrize(
  ("config", "build", "table", "names"),
  [
    (bigvgan.BIGVGAN_16K, first_version, tables.BIGVGAN, OLD),
    (bigvgan.BIGVGAN_44K, vocoder, tables.PARAMETRIZED, NEW),
  ],
  ids=["16k", "44k"],
)
def test_published_sizes_map_one_to_one(config, build, table, names):
  """Both tables have the same rules but for the two names."""
  import torch

  with torch.device("meta"):
    theirs = build(config).state_dict()
  theirs = {name: shape(x.shape) for name, x in theirs.items()}
  shapes = trees.flatten(nnx_utils.param_shapes(BigVGAN, config))
  matching.match(tables.DIFFUSERS, theirs, shapes)
  for name in list(theirs):
    if name.endswith(".weight"):
      x = theirs.pop(name)
      magnitude = shape([x.shape[0], *[1] * (len(x.shape) - 1)])
      both = zip(names, (magnitude, x), strict=True)
      theirs |= {name.removesuffix("weight") + own: y for own, y in both}
  matching.match(table, theirs, shapes)


def shape(sizes):
  return jax.ShapeDtypeStruct(tuple(sizes), np.dtype("float32"))


def test_snake_without_beta():
  config = bigvgan.BigVGANConfig(activation="snake", width=16, **SIZES)
  paths = trees.flatten(nnx_utils.param_shapes(BigVGAN, config))
  assert not [path for path in paths if path.endswith("beta")]
  matching.derive(tables.BIGVGAN, paths)

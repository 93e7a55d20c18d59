"""Our vocoder against diffusers', and its names in the published files."""

import functools

import jax
import numpy as np
import pytest

from ccl_jax import nnx_utils, trees
from ccl_jax.codecs import bigvgan
from ccl_jax.codecs.bigvgan import BigVGAN
from ccl_jax.convert import bigvgan as tables
from ccl_jax.convert import load, rules, torch_files

SIZES = dict(rates=(4, 2), kernels=(8, 4), block_kernels=(3, 5))
SMALL = bigvgan.Settings(
  num_mels=6, width=16, dilations=(1, 3), tanh=False, bias=False, **SIZES
)


def vocoder(settings):
  from diffusers.models.autoencoders.mmaudio_vocoder import MMAudioVocoder

  return MMAudioVocoder(
    num_mels=settings.num_mels,
    upsample_initial_channel=settings.width,
    upsample_rates=settings.rates,
    upsample_kernel_sizes=settings.kernels,
    resblock_kernel_sizes=settings.block_kernels,
    resblock_dilation_sizes=(settings.dilations,) * len(settings.block_kernels),
  )


def first_version(settings):
  """As BigVGAN v1: the last convolution has a bias, then tanh for the clip."""
  import torch

  model = vocoder(settings)
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


def ours(settings, table, arrays, mel):
  shapes = nnx_utils.param_shapes(BigVGAN, settings)
  params = load.load(torch_files.from_dict(arrays), table, shapes)
  return np.asarray(vocode(params, mel, settings))


@functools.partial(jax.jit, static_argnames="settings")
def vocode(params, mel, settings):
  return nnx_utils.bind(BigVGAN, settings, params)(mel)


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
  settings = bigvgan.Settings(num_mels=6, width=16, dilations=(1, 3), **SIZES)
  table = tables.PARAMETRIZED if parametrized else tables.BIGVGAN
  wave = ours(settings, table, arrays(model), mel)
  assert difference(wave, theirs) < 1e-4


OLD = ("weight_g", "weight_v")
NEW = ("parametrizations.weight.original0", "parametrizations.weight.original1")


@pytest.mark.parametrize(
  ("settings", "build", "table", "names"),
  [
    (bigvgan.BIGVGAN_16K, first_version, tables.BIGVGAN, OLD),
    (bigvgan.BIGVGAN_44K, vocoder, tables.PARAMETRIZED, NEW),
  ],
  ids=["16k", "44k"],
)
def test_published_sizes_map_one_to_one(settings, build, table, names):
  """Both tables have the same rules but for the two names."""
  import torch

  with torch.device("meta"):
    theirs = build(settings).state_dict()
  theirs = {name: shape(x.shape) for name, x in theirs.items()}
  shapes = trees.flatten(nnx_utils.param_shapes(BigVGAN, settings))
  rules.match(tables.DIFFUSERS, theirs, shapes)
  for name in list(theirs):
    if name.endswith(".weight"):
      x = theirs.pop(name)
      magnitude = shape([x.shape[0], *[1] * (len(x.shape) - 1)])
      both = zip(names, (magnitude, x), strict=True)
      theirs |= {name.removesuffix("weight") + own: y for own, y in both}
  rules.match(table, theirs, shapes)


def shape(sizes):
  return jax.ShapeDtypeStruct(tuple(sizes), np.dtype("float32"))


def test_snake_without_beta():
  settings = bigvgan.Settings(activation="snake", width=16, **SIZES)
  paths = trees.flatten(nnx_utils.param_shapes(BigVGAN, settings))
  assert not [path for path in paths if path.endswith("beta")]
  rules.derive(tables.BIGVGAN, paths)

"""Our Wan autoencoder against diffusers' AutoencoderKLWan, and both files."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange

from ccl_jax.codecs import converted_weights, image_condition, wan_vae
from ccl_jax.codecs.wan_video import WanVideoCodec
from ccl_jax.convert import matching
from ccl_jax.convert import wan_vae as tables
from ccl_jax.convert.state_dict import iter_state_dict
from ccl_jax.convert.torch_files import from_torch
from ccl_jax.params import nnx_utils, trees
from tests.convert.loading import from_dict, load

SMALL = wan_vae.WanVAEConfig(
  base=8, channels=4, mean=(0.1, -0.2, 0.3, 0.4), deviation=(1.0, 2.0, 0.5, 1.5)
)
TO_THEIRS, TO_OURS = "b t y x c -> b c t y x", "b c t y x -> b t y x c"


def their_model(config):
  from diffusers import AutoencoderKLWan

  return AutoencoderKLWan(
    base_dim=config.base,
    z_dim=config.channels,
    dim_mult=list(config.multipliers),
    num_res_blocks=config.residuals,
    temperal_downsample=list(config.halves_time),
    latents_mean=list(config.mean),
    latents_std=list(config.deviation),
  ).eval()


def randomize(model):
  """Norms and biases too, none near zero."""
  import torch

  torch.manual_seed(0)
  with torch.no_grad():
    for name, p in model.named_parameters():
      noise = torch.randn_like(p)
      if name.endswith("gamma"):
        p.copy_(1 + 0.3 * noise)
      elif name.endswith("bias"):
        p.copy_(0.3 * noise)
      else:
        p.copy_(noise / np.sqrt(p[0].numel()))
  return model


@pytest.fixture(scope="module")
def pair():
  """Their model, and our parameters out of its state."""
  theirs = randomize(their_model(SMALL))
  state = from_torch(theirs.state_dict())
  shapes = nnx_utils.param_shapes(wan_vae.Autoencoder, SMALL)
  return theirs, load(state, tables.DIFFUSERS, shapes)


def compiled(function, chunk):
  return jax.jit(functools.partial(function, config=SMALL, chunk=chunk))


def error(ours, theirs):
  return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


# One piece; a first piece that is longer; several pieces of one and two.
CASES = [(1, 1), (5, 2), (9, 1), (17, 2)]


@pytest.mark.parametrize(("frames", "chunk"), CASES)
def test_encode_equals_diffusers(pair, frames, chunk):
  import torch

  theirs, params = pair
  video = np.random.default_rng(frames).uniform(-1, 1, (2, frames, 16, 24, 3))
  video = video.astype(np.float32)
  with torch.no_grad():
    x = torch.from_numpy(rearrange(video, TO_THEIRS))
    posterior = theirs.encode(x).latent_dist
  mean, logvar = compiled(wan_vae.encode, chunk)(params, video)
  m, s = np.array(SMALL.mean), np.array(SMALL.deviation)
  wanted = rearrange(posterior.mean.numpy(), TO_OURS)
  assert error(np.asarray(mean) * s + m, wanted) < 1e-5
  wanted = rearrange(posterior.logvar.numpy(), TO_OURS)
  assert error(np.asarray(logvar) + 2 * np.log(s), wanted) < 1e-5


@pytest.mark.parametrize(("frames", "chunk"), CASES)
def test_decode_equals_diffusers(pair, frames, chunk):
  import torch

  theirs, params = pair
  shape = (2, 1 + frames // 4, 2, 3, SMALL.channels)
  raw = np.random.default_rng(frames).standard_normal(shape, np.float32)
  with torch.no_grad():
    wanted = theirs.decode(torch.from_numpy(rearrange(raw, TO_THEIRS))).sample
  latents = (raw - np.array(SMALL.mean)) / np.array(SMALL.deviation)
  video = compiled(wan_vae.decode, chunk)(params, jnp.float32(latents))
  wanted = rearrange(wanted.numpy(), TO_OURS)
  assert np.mean(np.abs(wanted) < 1) > 0.7  # Not all of it is clipped.
  assert error(video, wanted) < 1e-5


def test_first_frames_equal_those_of_diffusers_pipeline(pair, tmp_path):
  import torch
  from diffusers import WanImageToVideoPipeline

  theirs, params = pair
  about = {"settings": dataclasses.asdict(SMALL)}
  converted_weights.write(tmp_path / "vae", params, about)
  images = np.random.default_rng(0).integers(0, 256, (1, 16, 24, 3), np.uint8)
  x = torch.from_numpy(images.astype(np.float32) / 127.5 - 1)
  pipeline = types.SimpleNamespace(
    vae=theirs,
    config=types.SimpleNamespace(expand_timesteps=False),
    vae_scale_factor_temporal=4,
    vae_scale_factor_spatial=8,
  )
  with torch.no_grad():
    _, wanted = WanImageToVideoPipeline.prepare_latents(
      pipeline, x.permute(0, 3, 1, 2), 1, 4, 16, 24, 9, torch.float32, "cpu"
    )
  codec = WanVideoCodec(tmp_path / "vae", dtype="float32")
  ours = image_condition.make_image_latents(images, codec, 9)
  assert ours.shape == (1, 3, 2, 3, 8)
  wanted = rearrange(wanted.numpy(), TO_OURS)
  np.testing.assert_array_equal(ours[..., :4], wanted[..., :4])
  assert error(ours, wanted) < 1e-5


def test_every_name_of_diffusers_at_full_size():
  import torch

  with torch.device("meta"):
    theirs = their_model(wan_vae.PUBLISHED).state_dict()
  ours = trees.flatten(
    nnx_utils.param_shapes(wan_vae.Autoencoder, wan_vae.PUBLISHED)
  )
  as_jax = {
    name: jax.ShapeDtypeStruct(tuple(x.shape), jnp.float32)
    for name, x in theirs.items()
  }
  pieces = matching.match(tables.DIFFUSERS, as_jax, ours)
  assert len(pieces) == len(ours) == len(theirs)


def wan_names(base=96, channels=16):
  """Names and shapes in Wan2.1_VAE.pth, as its own vae.py makes them."""
  names = {}

  def conv(name, d_in, d_out, *size):
    names[f"{name}.weight"], names[f"{name}.bias"] = (
      (d_out, d_in, *size),
      (d_out,),
    )

  def residual(name, d_in, d_out):
    names[f"{name}.residual.0.gamma"] = (d_in, 1, 1, 1)
    conv(f"{name}.residual.2", d_in, d_out, 3, 3, 3)
    names[f"{name}.residual.3.gamma"] = (d_out, 1, 1, 1)
    conv(f"{name}.residual.6", d_out, d_out, 3, 3, 3)
    if d_in != d_out:
      conv(f"{name}.shortcut", d_in, d_out, 1, 1, 1)

  def ends(name, d_in, first, last, d_out):
    conv(f"{name}.conv1", d_in, first, 3, 3, 3)
    names[f"{name}.head.0.gamma"] = (last, 1, 1, 1)
    conv(f"{name}.head.2", last, d_out, 3, 3, 3)

  def middle(name, d):
    residual(f"{name}.middle.0", d, d)
    names[f"{name}.middle.1.norm.gamma"] = (d, 1, 1)
    conv(f"{name}.middle.1.to_qkv", d, 3 * d, 1, 1)
    conv(f"{name}.middle.1.proj", d, d, 1, 1)
    residual(f"{name}.middle.2", d, d)

  a, b, c = base, 2 * base, 4 * base
  ends("encoder", 3, a, c, 2 * channels)
  middle("encoder", c)
  down = "encoder.downsamples"
  for i, d_in, d_out in (
    (0, a, a), (1, a, a), (3, a, b), (4, b, b), (6, b, c), (7, c, c),
    (9, c, c), (10, c, c),
  ):  # fmt: skip
    residual(f"{down}.{i}", d_in, d_out)
  for i, d in ((2, a), (5, b), (8, c)):
    conv(f"{down}.{i}.resample.1", d, d, 3, 3)
  for i, d in ((5, b), (8, c)):
    conv(f"{down}.{i}.time_conv", d, d, 3, 1, 1)
  conv("conv1", 2 * channels, 2 * channels, 1, 1, 1)
  conv("conv2", channels, channels, 1, 1, 1)
  ends("decoder", channels, c, a, 3)
  middle("decoder", c)
  up = "decoder.upsamples"
  for i, d_in, d_out in (
    (0, c, c), (1, c, c), (2, c, c), (4, b, c), (5, c, c), (6, c, c),
    (8, b, b), (9, b, b), (10, b, b), (12, a, a), (13, a, a), (14, a, a),
  ):  # fmt: skip
    residual(f"{up}.{i}", d_in, d_out)
  for i, d in ((3, c), (7, c), (11, b)):
    conv(f"{up}.{i}.resample.1", d, d // 2, 3, 3)
  for i, d in ((3, c), (7, c)):
    conv(f"{up}.{i}.time_conv", d, 2 * d, 3, 1, 1)
  return names


def test_every_name_of_wans_own_file_at_full_size():
  theirs = {
    name: jax.ShapeDtypeStruct(shape, jnp.float32)
    for name, shape in wan_names().items()
  }
  ours = trees.flatten(
    nnx_utils.param_shapes(wan_vae.Autoencoder, wan_vae.PUBLISHED)
  )
  pieces = matching.match(tables.WAN, theirs, ours)
  assert len(pieces) == len(ours) == len(theirs) == 194
  assert (
    trees.count(nnx_utils.param_shapes(wan_vae.Autoencoder, wan_vae.PUBLISHED))
    == 126_892_531
  )


def test_both_files_make_the_same_parameters(pair):
  _, params = pair
  own = dict(iter_state_dict(params, tables.WAN))
  assert {k: x.shape for k, x in own.items()} == wan_names(8, 4)
  again = load(
    from_dict(own),
    tables.WAN,
    nnx_utils.param_shapes(wan_vae.Autoencoder, SMALL),
  )
  jax.tree.map(np.testing.assert_array_equal, again, params)

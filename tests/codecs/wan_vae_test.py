"""The Wan autoencoder: chunks of time, causality, meshes, sizes."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.codecs import runner, wan_layers, wan_vae
from ccl_jax.cost import collectives, hlo
from ccl_jax.params import nnx_utils
from ccl_jax.params.sharding import ONE_DEVICE, Layout, make_mesh
from tests.budgets import wan_vae as budget
from tests.codecs.wan_small import SMALL, random_params

PARAMS = random_params()


def compiled(function):
  def run(params, x, chunk=4, layout=ONE_DEVICE, dtype="float32"):
    options = dict(dtype=dtype, layout=layout, chunk=chunk)
    return function(params, x, SMALL, **options)

  return jax.jit(run, static_argnames=("chunk", "layout", "dtype"))


encode, decode = compiled(wan_vae.encode), compiled(wan_vae.decode)


def clip(b=2, t=7):
  video = np.random.default_rng(0).uniform(-1, 1, (b, t, 4, 8, 3))
  return video.astype(np.float32)


def latents(b=2, f=4):
  return np.random.default_rng(1).standard_normal((b, f, 2, 4, 3), np.float32)


def close(a, b, tolerance=2e-5):
  np.testing.assert_allclose(a, b, atol=tolerance * np.abs(b).max(), rtol=0)


def test_pieces_equal_the_whole_clip():
  for run, x in ((encode, clip()), (decode, latents())):
    jax.tree.map(close, run(PARAMS, x, chunk=2), run(PARAMS, x))


def test_nothing_depends_on_later_frames():
  def mean(video):
    return encode(PARAMS, video)[0]

  changed = clip()
  changed[:, 5:] = 0
  a, b = np.asarray(mean(clip())), np.asarray(mean(changed))
  np.testing.assert_array_equal(a[:, :3], b[:, :3])
  assert np.abs(a[:, 3] - b[:, 3]).min(axis=(0, 1, 2)).all()
  z = latents()
  changed = z.copy()
  changed[:, 2:] = 0
  a, b = (np.asarray(decode(PARAMS, x)) for x in (z, changed))
  np.testing.assert_array_equal(a[:, :3], b[:, :3])
  assert (a[:, 3] != b[:, 3]).any()


CASES = {"encode": (encode, clip(t=3), 2), "decode": (decode, latents(f=2), 1)}


@pytest.mark.parametrize("name", CASES)
def test_on_a_mesh_only_keys_and_values_of_a_frame_are_gathered(name):
  run, x, chunk = CASES[name]
  mesh = make_mesh(jax.devices()[:4], data=2, fsdp=1, context=2)
  layout = Layout(mesh)
  spec = layout.sharding(runner.ROWS, None, None, wan_layers.COLUMNS)
  args = jax.device_put(PARAMS, layout.sharding()), jax.device_put(x, spec)
  compiled = run.lower(*args, chunk, layout).compile()
  ours = jax.tree.leaves(compiled(*args))
  wanted = jax.tree.leaves(run(PARAMS, x, chunk))
  for a, b in zip(ours, wanted, strict=True):
    close(a, b)
    assert a.sharding.is_equivalent_to(spec, a.ndim)
  sent = collectives.collectives(
    hlo.parse(compiled.as_text()), dict(mesh.shape)
  )
  assert {c.kind for c in sent} == {"all-gather", "collective-permute"}
  frames = 2 if name == "encode" else 1
  frame = frames * 2 * 4 * SMALL.widths[-1] * 4
  assert {c.result for c in sent if c.kind == "all-gather"} == {frame}


def test_bfloat16_is_near():
  z = latents()
  a, b = (decode(PARAMS, z, dtype=d) for d in ("bfloat16", "float32"))
  assert a.dtype == jnp.float32
  assert 0 < np.abs(a - b).mean() < 0.03 * np.abs(b).mean()


def test_doubling_equals_its_two_steps():
  keys = jax.random.split(jax.random.key(0))
  x = jax.random.normal(keys[0], (2, 3, 4, 5, 6))
  kernel = jax.random.normal(keys[1], (3, 3, 6, 7))
  wanted = wan_layers.convolve(
    x.repeat(2, 2).repeat(2, 3), kernel[None], pad=(1, 1)
  )
  close(wan_layers.upsample_conv(x, kernel), wanted)


def test_published_size():
  shape = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
  params = nnx_utils.param_shapes(wan_vae.Autoencoder, wan_vae.PUBLISHED)
  video = shape((1, 121, 352, 640, 3))
  mean, logvar = jax.eval_shape(wan_vae.encode, params, video)
  assert mean.shape == logvar.shape == (1, 31, 44, 80, 16)
  assert jax.eval_shape(wan_vae.decode, params, mean).shape == video.shape
  assert wan_vae.PUBLISHED.stride == (4, 8, 8)


def test_sizes_that_do_not_fit_are_refused():
  with pytest.raises(ValueError, match="halvings"):
    wan_vae.WanVAEConfig(halves_time=(True,))
  with pytest.raises(ValueError, match="channels=4"):
    wan_vae.WanVAEConfig(channels=4)


def test_published_decoder_fits_four_chips():
  """As it was compiled by `python -m tests.budgets.wan_vae`."""
  found = json.loads(budget.FILE.read_text())
  assert found["latents"] == list(budget.LATENTS)
  assert found["headroom"] >= 0.1
  assert found["largest_gather_mb"] <= 2 * found["frame_mb"]

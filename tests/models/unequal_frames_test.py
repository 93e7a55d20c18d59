"""The fusion where frames have unequal numbers of audio latents."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ccl_jax.array_types import Route, audio_starts
from ccl_jax.attention import Attention
from ccl_jax.models.audio_grid import AudioGrid
from ccl_jax.models.fusion import FusionContext
from ccl_jax.models.fusion.cca import CCA
from tests.models import tiny

RATE, B = 31.25, 2


def context(frames, c, padded=0, sees=(True, True), backend="reference"):
  """What layers share, with one token in each video frame."""
  f = frames + padded
  yes = jnp.ones(B, bool)
  seen = dict.fromkeys(("video", "audio"), jnp.asarray(sees))
  route = Route(seen, {"video": yes, "audio": yes}, yes)
  grids = {"video": (f, 1, 1), "audio": (f, 1, AudioGrid(f, c).slots)}
  return FusionContext(grids, frames, route, Attention(backend), c)


def make(**options):
  return CCA(
    {"video": 24, "audio": 12}, {"video": 12, "audio": 12}, rngs=nnx.Rngs(0),
    dtype=jnp.float32, **{"num_audio_lct": 1, "num_video_lct": 1} | options,
  )  # fmt: skip


@pytest.mark.parametrize("padded", [0, 3])
@pytest.mark.parametrize("fps", [8, 16, 24, 24000 / 1001, 28, 30, 50, 60])
@pytest.mark.parametrize("options", [{}, {"dcr": False}], ids=str)
def test_a_window_is_the_latents_whose_middle_is_in_its_frames(
  fps, padded, options
):
  frames, c = 13, 4 * RATE / fps
  shared, module = context(frames, c, padded), make(**options)
  grid = shared.audio_grid
  n, m = frames + padded, len(grid.latents)
  kept = np.flatnonzero(~grid.is_padding)[: audio_starts(frames, c)[-1]]
  middle = (np.arange(len(kept)) + 0.5) / RATE
  start = np.arange(frames)[:, None] * 4 / fps
  near = (middle > start - 4 / fps - 1e-9) & (middle < start + 8 / fps - 1e-9)
  seen = module.mask("video", m, shared).dense(n, 1 + m)[0, :frames]
  assert seen[:, 0].all()
  np.testing.assert_array_equal(seen[:, 1 + kept], near)
  assert seen[:, 1:].sum() == near.sum()  # neither padding nor padded frames
  # A latent sees its own frame.
  own = (middle > start - 1e-9) & (middle < start + 4 / fps - 1e-9)
  seen = module.mask("audio", n, shared).dense(m, 1 + n)[0, kept]
  np.testing.assert_array_equal(seen[:, 1 : 1 + frames], own.T)


def test_the_matrix_of_50_fps():
  """Two and three latents in turn."""
  shared = context(4, 2.5)
  seen = make().mask("video", 12, shared).dense(4, 13)[0].astype(int)
  np.testing.assert_array_equal(
    seen,
    [
      [1, 1, 1, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0],
      [1, 1, 1, 0, 1, 1, 1, 1, 1, 0, 0, 0, 0],
      [1, 0, 0, 0, 1, 1, 1, 1, 1, 0, 1, 1, 1],
      [1, 0, 0, 0, 0, 0, 0, 1, 1, 0, 1, 1, 1],
    ],
  )


@pytest.mark.parametrize("positions", ["index", "seconds", "fine", "unscaled"])
def test_a_token_turns_by_the_time_of_its_latent(positions):
  """Whatever the frame; 125 / 24 latents are four frames of 24 fps."""
  c = 125 / 24
  shared, module = context(7, c), make(positions=positions, fps=99.0)
  grid = shared.audio_grid
  latent = np.arange(grid.num_latents)
  time = {
    "index": latent / c, "seconds": (latent + 0.5) / c, "fine": latent + 0.5,
    "unscaled": latent,
  }[positions]  # fmt: skip
  angles = np.asarray(module.angles("video", "audio", shared))[grid.tokens]
  np.testing.assert_allclose(angles[:, 0], time, rtol=1e-6)


def draw(shared):
  rng = np.random.default_rng(0)
  return {
    s: jnp.asarray(rng.standard_normal((B, f, h * w, d)), "float32")
    for (s, (f, h, w)), d in zip(shared.grids.items(), (24, 12), strict=True)
  }


def exchange_of(backend, padding=None, **options):
  """(exchange of latents and frames, gradients by inputs and parameters)."""
  shared = context(5, 2.6, sees=(True, False), backend=backend)
  grid, x = shared.audio_grid, draw(shared)
  if padding is not None:
    hidden = jnp.asarray(grid.is_padding).reshape(1, 5, 3, 1)
    x["audio"] = jnp.where(hidden, padding, x["audio"])
  graph, params = nnx.split(make(**options))
  params = tiny.randomize(nnx.to_pure_dict(params))

  @jax.jit
  def take(params, x):
    def loss(params, x):
      out = nnx.merge(graph, params).exchange(x, shared)
      out["audio"] = grid.unpad(out["audio"])
      return sum(jnp.sin(y).sum() for y in out.values()), out

    return jax.grad(loss, (0, 1), has_aux=True)(params, x)

  (of_params, of_x), out = take(params, x)
  of_padding = of_x["audio"].reshape(B, 15, -1)[:, grid.is_padding]
  of_x["audio"] = grid.unpad(of_x["audio"])
  return (out, of_params, of_x), of_padding


OPTIONS = ({}, {"dcr": False}, {"tarp": False}, {"num_audio_lct": 0})


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("backend", ["framed", "splash"])
def test_backends_equal_the_reference(backend, options):
  if backend == "framed" and not options.get("tarp", True):
    backend = None  # has no windows: what is chosen for a CPU
  got, _ = exchange_of(backend, **options)
  expected, _ = exchange_of("reference", **options)
  for a, b in zip(*map(jax.tree.leaves, (got, expected)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_nobody_reads_padding(options):
  got, gradient = exchange_of("reference", 1e3, **options)
  expected, _ = exchange_of("reference", **options)
  assert not np.any(gradient)
  for a, b in zip(*map(jax.tree.leaves, (got, expected)), strict=True):
    np.testing.assert_array_equal(a, b)

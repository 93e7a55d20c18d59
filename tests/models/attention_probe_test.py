"""Shares against a softmax written out, and what routes make of them."""

import jax
import jax.numpy as jnp
import numpy as np

from ccl_jax.array_types import STREAMS
from ccl_jax.attention import Attention
from ccl_jax.models import functional, qk_rope
from ccl_jax.models.attention_probe import attention_shares
from ccl_jax.models.fusion import NO_CACHE, FusionContext
from ccl_jax.params.sharding import ONE_DEVICE
from tests.models import tiny
from tests.models.cca_golden_test import load


def test_share_is_the_mass_of_the_softmax():
  module, x, route, _, grids = load(2)
  shared = FusionContext(
    grids, x["video"].shape[1], route, Attention("reference")
  )

  @jax.jit
  def both(x):
    shares, expected = module.attention_shares(x, shared), {}
    for name in STREAMS:
      k, v = module.other_kv(name, x, shared, NO_CACHE)
      side = getattr(module, name)
      k0 = jnp.repeat(side.context_kv(k.dtype)[0], len(k), axis=0)
      project = qk_rope.projector(ONE_DEVICE, name)
      angles = module.angles(name, name, shared)
      q = side.query(side.norm(x[name]), angles, project)
      k = jnp.concatenate([k0, k], 1)
      mask = module.mask(name, v.shape[1], shared)
      logits = jnp.einsum("bnke,bmke->bknm", q, k) * q.shape[-1] ** -0.5
      seen = mask.dense(q.shape[1], k.shape[1])[:, None]
      weights = jax.nn.softmax(jnp.where(seen, logits, -jnp.inf), -1)
      far = weights[..., side.num_context :].sum(-1)
      expected[name] = far.mean(1)
    return shares, expected

  shares, expected = both(x)
  for side in x:
    np.testing.assert_allclose(shares[side], expected[side], atol=1e-5)
    assert 0 < expected[side].max() < 1


def test_routes_and_a_stream_alone():
  graph, shapes = functional.describe(tiny.SETTINGS)
  run = jax.jit(attention_shares, static_argnums=0)
  params = tiny.randomize(shapes)
  state, t, text, route = tiny.inputs()
  shares = run(graph, params, state, t, text, route)
  assert shares["video"].shape == (2, tiny.B, tiny.F, 2, 3)
  assert shares["audio"].shape == (2, tiny.B, tiny.F * 2)
  # Tasks: apart, a2v, v2a, joint.
  for s, sees in (("video", [0, 1, 0, 1]), ("audio", [0, 0, 1, 1])):
    share = np.asarray(shares[s]).reshape(2, tiny.B, -1)
    np.testing.assert_array_equal((share > 0).all(-1), [sees] * 2)
    assert (share < 1).all()
  video = {"video": state["video"]}, {"video": t["video"]}
  assert jax.eval_shape(lambda: run(graph, params, *video, text, route)) == {}

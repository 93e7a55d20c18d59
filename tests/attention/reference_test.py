"""The reference against softmax written out in numpy."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.attention import cases


def _naive(q, k, v, seen):
  """One sample, one head, float64."""
  logits = np.where(seen, q @ k.T / np.sqrt(q.shape[-1]), -np.inf)
  weights = np.exp(logits - logits.max(-1, keepdims=True))
  return weights / weights.sum(-1, keepdims=True) @ v


@pytest.mark.parametrize(
  "name", ["full, key lengths", "full, the first keys", "video, mixed routes"]
)
def test_reference_is_softmax_attention(name):
  mask, n, m = (cases.WINDOWS | cases.OTHERS)[name]
  q, k, v = cases.draw(n, m)
  out = cases.run("reference", mask, q, k, v)
  seen = np.broadcast_to(mask.dense(n, m), (2, n, m))
  for b in range(2):
    for head in range(2):
      x, y, z = (np.float64(array[b, :, head]) for array in (q, k, v))
      expected = _naive(x, y, z, seen[b])
      np.testing.assert_allclose(out[b, :, head], expected, atol=1e-5)


@pytest.mark.parametrize("backend", ["reference", "framed", "splash"])
def test_bfloat16_stays_bfloat16_and_near_float32(backend):
  mask, n, m = cases.routed(cases.VIDEO)
  arrays = cases.draw(n, m, dtype=jnp.bfloat16)
  out = cases.run(backend, mask, *arrays)
  assert out.dtype == jnp.bfloat16
  wide = [array.astype(jnp.float32) for array in arrays]
  expected = cases.run("reference", mask, *wide)
  np.testing.assert_allclose(out.astype(jnp.float32), expected, atol=0.03)

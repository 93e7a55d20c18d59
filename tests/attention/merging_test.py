"""The log-sum-exp of attention, and attention merged by it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.attention import Full, Mask, Window, attend, merge
from ccl_jax.attention.target import CompileTarget
from tests.attention import cases

CASES = {
  "reference": Mask(Full(9)),
  "splash": Mask(Full(9)),
  "framed": Mask(Window(3, 2, radius=1)),
}
N, M = 18, 12


def compare(run, expected, arrays):
  """Values and gradients of an uneven function of all outputs."""

  def loss(function):
    def value(q, k, v):
      out = function(q, k, v)
      return sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(out)), out

    return jax.jit(jax.grad(value, (0, 1, 2), has_aux=True))

  pairs = (jax.tree.leaves(loss(f)(*arrays)) for f in (run, expected))
  for got, wanted in zip(*pairs, strict=True):
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", CASES)
def test_the_output_and_its_log_sum_exp_by_their_definition(backend):
  mask = CASES[backend]

  def expected(q, k, v):
    logits = jnp.einsum("bnke,bmke->bnkm", q, k) / q.shape[-1] ** 0.5
    seen = mask.dense(N, M)[:, :, None]
    logits = jnp.where(seen, logits, -jnp.inf)
    out = jnp.einsum("bnkm,bmke->bnke", jax.nn.softmax(logits), v)
    return out, jax.nn.logsumexp(logits, -1)

  def run(q, k, v):
    return attend(q, k, v, mask, backend=backend, with_lse=True)

  compare(run, expected, cases.draw(N, M))


@pytest.mark.parametrize("backend", ["reference", "splash"])
def test_two_sets_of_keys_merged_are_one_softmax(backend):
  def run(q, k, v):
    parts = (
      attend(q, k[:, at], v[:, at], backend=backend, with_lse=True)
      for at in (slice(0, 5), slice(5, M))
    )
    return merge(*parts)

  compare(run, attend, cases.draw(N, M))


def test_a_set_that_is_not_seen_adds_nothing():
  q, k, v = cases.draw(6, 4)
  of_frame = Mask(
    Window(3, 2, radius=0),
    q_segments=jnp.ones((2, 6), jnp.int32),
    k_segments=jnp.zeros((2, 4), jnp.int32),
  )
  seen = attend(q, k, v, with_lse=True)
  for backend in ("framed", "reference"):
    unseen = attend(q, k, v, of_frame, backend=backend, with_lse=True)
    np.testing.assert_array_equal(merge(seen, unseen), seen[0])


def test_a_backend_without_it_is_named():
  arrays = cases.draw(6, 4)
  with pytest.raises(ValueError, match="'cudnn' cannot do this"):
    attend(*arrays, target=CompileTarget("gpu"), backend="cudnn", with_lse=True)

"""cuDNN refuses what it cannot do, and runs forward once if remat keeps it."""

import jax
import jax.numpy as jnp
import pytest
from jax._src.cudnn import fused_attention_stablehlo

from ccl_jax.attention import Full, Mask, attend
from ccl_jax.attention.target import CompileTarget
from ccl_jax.models.remat import REMAT
from tests.attention import cases

HALF = jnp.bfloat16
SEGMENTED = Mask(
  q_segments=jnp.zeros((2, 21), jnp.int32),
  k_segments=jnp.zeros((2, 13), jnp.int32),
)


@pytest.mark.parametrize(
  "platform, mask, dtype, e, reason",
  [
    ("cpu", Mask(), HALF, 16, "needs a GPU"),
    ("gpu", Mask(cases.VIDEO), HALF, 16, "full attention"),
    ("gpu", SEGMENTED, HALF, 16, "full attention"),
    ("gpu", Mask(), jnp.float32, 16, "half precision"),
    ("gpu", Mask(), HALF, 12, "head size"),
  ],
)
def test_cudnn_refuses_with_a_reason(platform, mask, dtype, e, reason):
  arrays = cases.draw(21, 13, e=e, dtype=dtype)
  with pytest.raises(ValueError, match=reason):
    attend(*arrays, mask, backend="cudnn", target=CompileTarget(platform))


@pytest.fixture
def hopper(monkeypatch):
  """A GPU as far as jax asks before it lowers."""
  for name, value in {
    "check_cudnn_version": lambda: 91100,
    "check_compute_capability": lambda _: True,
    "is_cuda_compute_capability_equal": lambda _: False,
  }.items():
    monkeypatch.setattr(fused_attention_stablehlo, name, value)


@pytest.mark.parametrize("pattern", [Full(), Full(100)])
@pytest.mark.parametrize(
  "policy, forwards",
  [("none", 1), ("full", 2), ("attention", 1), ("attention_ffn", 1)],
)
def test_kept_attention_runs_forward_once(hopper, pattern, policy, forwards):
  """Counted in the program of value and gradients, lowered for CUDA."""
  x = jax.ShapeDtypeStruct((2, 128, 4, 64), HALF)

  def block(x):
    q, k, v = jnp.tanh(x), jnp.sin(x), jnp.cos(x)
    gpu = CompileTarget("gpu")
    return attend(
      q, k, v, Mask(pattern), backend="cudnn", target=gpu, name="self_attention"
    )

  if REMAT[policy]:
    block = jax.checkpoint(block, policy=REMAT[policy])

  def loss(x):
    return jnp.square(block(x).astype(jnp.float32)).sum()

  traced = jax.jit(jax.value_and_grad(loss)).trace(x)
  text = traced.lower(lowering_platforms=("cuda",)).as_text()
  assert text.count("@__cudnn$fmhaSoftmax(") == forwards
  assert text.count("@__cudnn$fmhaSoftmaxBackward(") == 1
  kept = jax.tree.leaves(jax.eval_shape(lambda x: jax.vjp(block, x)[1], x))
  if policy.startswith("attention"):  # beside x: the output, and statistics
    assert [a.shape for a in kept].count(x.shape) == 2
    assert [a.shape for a in kept].count((2, 4, 128)) == 1

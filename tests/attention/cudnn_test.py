"""cuDNN refuses what it cannot do, each with its reason."""

import jax.numpy as jnp
import pytest

from ccl_jax.attention import Mask, attend
from ccl_jax.attention.target import CompileTarget
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

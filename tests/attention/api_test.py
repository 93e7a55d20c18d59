"""The door: the best backend that can, and honest errors."""

import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging

from ccl_jax.attention import Full, Mask, Window, api, attend
from ccl_jax.attention.target import CompileTarget
from tests.attention import cases


def test_each_platform_has_its_order():
  wide = Window(1, api.MAX_FRAMED_KEYS, radius=1)
  many, few = (1024, 65), (1024, 64)
  for platform in ("cpu", "gpu", "tpu"):
    assert api.choose(platform, cases.VIDEO, *many) == ("framed", "reference")
  assert api.choose("cpu", cases.VIDEO, *few) == ("reference",)
  assert api.choose("tpu", cases.VIDEO, *few) == ("framed", "reference")
  assert api.choose("cpu", Full(), *few) == ("reference",)
  assert api.choose("gpu", Full(), *few) == ("cudnn", "reference")
  assert api.choose("tpu", Full(), *few) == ("splash", "reference")
  assert api.choose("tpu", wide, *many) == ("splash", "reference")
  own, near = Window(1, 768, radius=0), Window(1, 256, radius=1)  # 768 keys
  assert api.choose("tpu", own, *many) == ("framed", "reference")
  assert api.choose("tpu", near, *many) == ("splash", "reference")


def test_a_refusal_is_logged_once_and_the_next_backend_answers(monkeypatch):
  messages = []
  monkeypatch.setattr(logging, "warning", messages.append)
  arrays = cases.draw(11, 5)  # float32: not for cuDNN
  outs = [attend(*arrays, target=CompileTarget("gpu")) for _ in range(2)]
  expected = attend(*arrays, backend="reference")
  np.testing.assert_array_equal(outs, [expected, expected])
  assert len(messages) == 1 and "half precision" in messages[0]


def test_an_unknown_backend_is_an_error_that_lists_the_known():
  with pytest.raises(ValueError, match="reference, framed, splash, cudnn"):
    attend(*cases.draw(4, 4), backend="flash")


def test_a_mask_of_another_batch_is_an_error():
  mask = Mask(k_lengths=jnp.array([1, 2, 3]))
  with pytest.raises(ValueError, match="expected"):
    attend(*cases.draw(4, 4), mask)

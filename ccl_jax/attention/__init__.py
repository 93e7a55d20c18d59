"""Attention: `attend(q, k, v, mask)`, alone or with its log-sum-exp."""

from ccl_jax.attention.api import attend
from ccl_jax.attention.mask import FrameBlocks, Full, Mask, Window
from ccl_jax.attention.merging import merge
from ccl_jax.attention.sharded import Attention

__all__ = [
  "Attention",
  "FrameBlocks",
  "Full",
  "Mask",
  "Window",
  "attend",
  "merge",
]

"""Attention behind one door: `attend(q, k, v, mask)`; masks are data."""

from ccl_jax.attention.api import attend
from ccl_jax.attention.mask import BlockPairs, Full, Mask, Window
from ccl_jax.attention.sharded import Attention

__all__ = ["Attention", "BlockPairs", "Full", "Mask", "Window", "attend"]

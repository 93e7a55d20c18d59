"""Attention behind one door: `attend(q, k, v, mask)`; masks are data."""

from ccl_jax.attention.api import attend
from ccl_jax.attention.mask import BlockPairs, Full, Mask, Window

__all__ = ["BlockPairs", "Full", "Mask", "Window", "attend"]

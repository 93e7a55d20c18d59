"""Attention: one entry point, `attend(q, k, v, mask)`; masks are data."""

from ccl_jax.attention.api import attend
from ccl_jax.attention.mask import Full, Mask, Window
from ccl_jax.attention.sharded import Attention

__all__ = ["Attention", "Full", "Mask", "Window", "attend"]

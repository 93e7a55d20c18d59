"""Strict settings for every test: annotations are checked at run time."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")

from jaxtyping import install_import_hook

install_import_hook("ccl_jax", "beartype.beartype")

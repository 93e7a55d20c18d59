"""Strict settings for every test: annotations are checked at run time."""

import os
from importlib.metadata import version

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Small eigenproblems are far slower on several BLAS threads than on one.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
# Programs here are small and run once: most of the time is compilation, which
# takes a third of it without fusion emitters. jaxlib 0.11 has nothing else.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault(
  "XLA_FLAGS",
  "--xla_cpu_parallel_codegen_split_count=1"
  + " --xla_cpu_use_fusion_emitters=false" * (version("jaxlib") < "0.11"),
)

import jax
from jaxtyping import install_import_hook

# Meshes of virtual devices; what asks for none runs on the first.
jax.config.update("jax_num_cpu_devices", 8)
install_import_hook("ccl_jax", "beartype.beartype")


@pytest.fixture(scope="session", autouse=True)
def programs(tmp_path_factory):
  """What a command compiles is kept for the next process that needs it."""
  folder = tmp_path_factory.getbasetemp().parent / "programs"
  os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
  os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"


@pytest.fixture
def framed_windows(monkeypatch):
  """Windows read their own keys only, as those of larger models do."""
  monkeypatch.setattr("ccl_jax.cpu.MAX_DENSE_PAIRS", 0)

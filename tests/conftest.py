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

# Marker -> parts of paths below tests/; a test has the first that fits. What
# has none takes seconds to compile, and is in the full run only.
MARKERS = {
  "parity": ("parity/", "convert/export", "convert/codecs", "convert/ccl"),
  "pod": ("compile/main", "cost/compiled", "distributed", "faults"),
  "command": (
    "train_test", "sample_test", "evaluate_test", "encode_test", "world_test",
    "command_test", "app/", "launch/", "documentation_test", "convert/main",
    "data/encode/dataset", "data/encode/staging", "data/decoding", "optimized",
  ),
  "fast": (
    "array_types", "attention/api", "attention/cudnn", "attention/mask",
    "attention/reference", "attention/splash_block", "attention/windowed",
    "checkpoints/orbax", "codecs/api", "codecs/chunking", "codecs/hashed",
    "codecs/tokenizer", "compile/topology", "config_test", "convert/layouts",
    "convert/matching", "convert/rules", "convert/state_dict", "cost/",
    "data/encode/captions", "data/loader", "data/records", "data/tf_example",
    "diffusion/", "files_test", "generation/requests", "layering",
    "models/rope", "models/cca_golden", "models/attention_probe",
    "training/goodput", "training/metrics", "training/optim",
    "training/preemption", "training/profiling", "training/throughput",
    "training/xla_options", "trees",
  ),
}  # fmt: skip


def pytest_collection_modifyitems(items):
  """Marks tests by the path of their file."""
  for item in items:
    path = item.path.as_posix().partition("/tests/")[2]
    for marker, parts in MARKERS.items():
      if any(path.startswith(part) for part in parts):
        item.add_marker(marker)
        break


@pytest.fixture(scope="session", autouse=True)
def programs(tmp_path_factory):
  """What a command compiles is kept for the next process that needs it."""
  folder = tmp_path_factory.getbasetemp().parent / "programs"
  os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
  os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"


@pytest.fixture(scope="session")
def run(tmp_path_factory):
  """The workdir of a run that was never trained, see `tests.runs`."""
  from tests import runs

  return runs.write(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
  """Field of a request -> path of such an input, see `tests.runs`."""
  from tests import runs

  return runs.write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="session")
def data(tmp_path_factory):
  """A few encoded clips, see `tests.small_data`."""
  from tests import small_data

  return small_data.write(tmp_path_factory.mktemp("data") / "latents")


@pytest.fixture
def framed_windows(monkeypatch):
  """Windows read their own keys only, as those of larger models do."""
  monkeypatch.setattr("ccl_jax.cpu.MAX_DENSE_PAIRS", 0)

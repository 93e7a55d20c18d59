"""Strict settings for every test: annotations are checked at run time."""

import os
from importlib.metadata import version

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Small eigenproblems are far slower on several BLAS threads than on one.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
# Programs here are small and run once: most of the time is compilation, which
# takes a third of it without fusion emitters. jaxlib 0.11 has nothing else. In
# 0.12 some products of bfloat16, meant for YNNPACK, are summed in bfloat16.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault(
  "XLA_FLAGS",
  "--xla_cpu_parallel_codegen_split_count=1"
  + " --xla_cpu_use_fusion_emitters=false" * (version("jaxlib") < "0.11")
  + " --xla_cpu_experimental_ynn_fusion_type=" * (version("jaxlib") >= "0.12"),
)

import jax
from jaxtyping import install_import_hook

# Meshes of virtual devices; what asks for none runs on the first.
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
install_import_hook("ccl_jax", "beartype.beartype")

# Marker -> how the ids of its tests begin, below tests/. The first that fits
# counts; all other tests are fast. What takes over 3 s is at least slow.
MARKERS = {
  "parity": ("parity/", "convert/ccl", "convert/export", "convert/torch_files",
    "convert/lora_files_test.py::test_diffusers"),
  "pod": (
    "checkpoints/manifest_test.py::test_two_processes",
    "compile/kernels", "compile/main",
    "data/encode/staging_test.py::test_processes",
    "faults", "launch/local_pod", "processes/distributed",
    "sample_test.py::test_processes",
    "training/program_cache_test.py::test_all_hosts",
  ),
  "command": (
    "ablate_test", "app/main", "captions_test",
    "command/", "convert/main",
    "data/decoding_test.py::test_the_command",
    "data/encode/dataset_test.py::test_the_command",
    "data/opening_test.py::test_bombs",
    "data/loader_test.py::test_tensorflow", "encode_test", "evaluate_test",
    "filter_test", "frame_rates_test", "fusions_test", "launch/",
    "measure_test", "optimized", "processes/pools", "sample_test",
    "shapes_test", "train_test", "world_test",
  ),
  "slow": (
    "app/session", "attention/splash_backward_test.py::test_two_kernels",
    "attention/splash_test", "checkpoints/emergency", "checkpoints/manager",
    "codecs/bigvgan", "codecs/mmaudio", "codecs/wan", "convert/average",
    "convert/codecs", "convert/lora_files", "convert/transformer",
    "data/encode/dataset",
    "data/encode/decode_pool_test.py::test_a_clip_at_which",
    "data/encode/decode_pool_test.py::test_processes_that_die",
    "data/encode/staging", "data/encode/sync", "data/frame_rates",
    "data/mixture", "data/scores/table_test.py::test_processes",
    "data/shapes_test.py::test_weights",
    "generation/batch", "generation/frame_rates", "generation/held_out",
    "generation/pipeline", "generation/sampling", "generation/scored",
    "generation/stored", "image_to_video",
    "metrics/degenerate", "metrics/real/speech_test.py::test_dnsmos",
    "metrics/real/sync_test.py::test_clips_without",
    "metrics/real/words_test.py::test_pocketsphinx", "metrics/synchworld",
    "models/avdit", "models/cca_golden_test.py::test_cca_equals",
    "models/cost", "models/icac_test.py::test_a_mesh",
    "models/icac_test.py::test_a_new_layer",
    "models/icac_test.py::test_audio_that_is_never",
    "models/icac_test.py::test_positions", "models/icac_test.py::test_which",
    "models/icac_test.py::test_without_sound",
    "models/joint_test.py::test_gradients", "models/joint_test.py::test_parts",
    "models/joint_test.py::test_scan", "models/joint_test.py::test_time",
    "models/joint_test.py::test_which", "models/reference",
    "models/unequal_frames_test.py::test_backends",
    "params/lora_test.py::test_a_mesh",
    "params/lora_test.py::test_every", "params/lora_test.py::test_only",
    "params/sharding_test.py::test_a_mesh",
    "params/sharding_test.py::test_accumulation",
    "params/sharding_test.py::test_copies",
    "training/avdit", "training/held_out", "training/in_context",
    "training/start", "training/state_test.py::test_sampling",
    "training/step", "training/xla_options_test.py::test_options_reach",
  ),
}  # fmt: skip


def pytest_collection_modifyitems(items):
  """Gives each test one marker."""
  for item in items:
    name = item.nodeid.removeprefix("tests/")
    found = (m for m, starts in MARKERS.items() if name.startswith(starts))
    item.add_marker(next(found, "fast"))


@pytest.fixture(scope="session", autouse=True)
def programs(tmp_path_factory):
  """What a command compiles is kept for the next process that needs it."""
  folder = tmp_path_factory.getbasetemp().parent / "programs"
  os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
  os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"


@pytest.fixture
def standard_promotion():
  """Optax's bias correction mixes types: not strict where it is traced."""
  with jax.numpy_dtype_promotion("standard"):
    yield


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
  monkeypatch.setattr("ccl_jax.ops.cpu.MAX_DENSE_PAIRS", 0)

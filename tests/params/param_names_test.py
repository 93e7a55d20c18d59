"""What names say holds for every parameter of the model."""

from ccl_jax.models import functional
from ccl_jax.params import param_names, trees
from tests.models import tiny

SHAPES = trees.flatten(functional.describe(tiny.SETTINGS)[1])


def test_stacked_parameters_have_an_axis_of_layers():
  stacked = [path for path in SHAPES if param_names.is_stacked(path)]
  deeper = tiny.SETTINGS | {"num_layers": 5}
  deeper = trees.flatten(functional.describe(deeper)[1])
  assert deeper.keys() == SHAPES.keys()
  assert stacked == [p for p in SHAPES if deeper[p].shape != SHAPES[p].shape]
  assert all(deeper[p].shape == (5, *SHAPES[p].shape[1:]) for p in stacked)


def test_kernels_are_matrices_and_times_are_named():
  for path, x in SHAPES.items():
    rank = x.ndim - param_names.is_stacked(path)
    assert not param_names.is_kernel(path) or rank == 2, path
  times = [path for path in SHAPES if param_names.is_time_embedding(path)]
  names = [f"{layer}/{name}" for layer in ("time/down", "time/up", "time_rows")
           for name in ("bias", "kernel")]  # fmt: skip
  assert times == [f"{s}/{name}" for s in ("audio", "video") for name in names]

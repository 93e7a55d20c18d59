"""Learned codecs: their weights, and batches on the devices of a process."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from ccl_jax.array_types import Array, PyTree
from ccl_jax.codecs import converted_weights
from ccl_jax.params import nnx_utils
from ccl_jax.params.sharding import ONE_DEVICE, Layout, Rules, Spec

ROWS = ("data", "fsdp")
REPLICATED: Rules = ((".*", ()),)


class LearnedCodec:
  """A codec with converted weights, which are read at their first use.

  Args:
    weights: folder of converted weights (`codecs.converted_weights`).
    layout: rows are split over `data` and `fsdp` of its mesh. All devices must
      be this process's.

  Attributes:
    module, config_class: classes of the model and of its sizes.
    rules: sharding of the parameters; by default every device holds all.
  """

  module: nnx_utils.Make
  config_class: type
  rules: Rules = REPLICATED

  def __init__(self, weights: epath.PathLike, layout: Layout = ONE_DEVICE):
    self.weights = str(weights)
    self.layout = make_layout(layout.mesh, self.rules)

  def settings(self) -> dict[str, Any]:
    """Returns the constructor's arguments, but for the layout."""
    names = inspect.signature(type(self)).parameters
    return {name: getattr(self, name) for name in names if name != "layout"}

  def arrays(self) -> dict[str, np.ndarray]:
    return {}

  @functools.cached_property
  def config(self) -> Any:
    """Reads the model's sizes."""
    return converted_weights.read_config(self.weights, self.config_class)

  @functools.cached_property
  def params(self) -> PyTree:
    """Reads the model's parameters, onto the devices."""
    self.check_weights()
    return read_params(self.weights, self.module, self.config, self.layout)

  def check_weights(self) -> None:
    """Raises ValueError if the model's sizes are not the codec's."""


def make_layout(mesh: Mesh | None, params: Rules = REPLICATED) -> Layout:
  """Returns a layout that splits rows, and parameters by rules."""
  # In small models norms and biases, which are not split, weigh much.
  return Layout(
    mesh, params=params, activations=((".*", (ROWS,)),), max_unsharded=1.0
  )


def read_params(
  path: epath.PathLike, make: nnx_utils.Make, config: Any, layout: Layout
) -> PyTree:
  """Returns a model's converted weights, on the devices."""
  shapes = nnx_utils.param_shapes(make, config, layout)
  return converted_weights.read(path, shapes)


def put_batch(layout: Layout, x: np.ndarray, spec: Spec = (ROWS,)) -> Array:
  """Returns x on the devices, padded with its last row so that it divides.

  Args:
    spec: of all axes; the first is that of rows.
  """
  x = np.concatenate([x, np.repeat(x[-1:], -len(x) % layout.size(ROWS), 0)])
  return jax.device_put(x, layout.sharding(*spec))


def run_batch(
  run: Callable[[Array], Array], layout: Layout, x: np.ndarray
) -> np.ndarray:
  """Returns `run(x)` as a numpy array."""
  return np.asarray(run(put_batch(layout, x)))[: len(x)]

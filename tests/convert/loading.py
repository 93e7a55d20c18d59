"""State dicts in memory, and parameters made of them at once."""

import jax
import numpy as np

from ccl_jax.convert.state_dict import streamed_params
from ccl_jax.convert.torch_files import LazyStateDict
from ccl_jax.params import trees


def from_dict(arrays):
  """Returns numpy arrays as a state dict."""
  shapes = {
    name: jax.ShapeDtypeStruct(np.shape(x), x.dtype)
    for name, x in arrays.items()
  }
  return LazyStateDict("memory", shapes, arrays.__getitem__)


def load(state_dict, table, shapes):
  """Returns the parameters, cast to the dtypes of `shapes`, on one device."""
  streamed = trees.flatten(streamed_params(state_dict, table, shapes))
  return trees.unflatten(
    {
      path: _materialize(streamed[path], x.dtype)
      for path, x in trees.flatten(shapes).items()
    }
  )


def _materialize(streamed, dtype):
  made = np.empty(streamed.shape, dtype)
  for row, part in streamed.parts():
    made[... if row is None else row] = part
  return jax.device_put(made)

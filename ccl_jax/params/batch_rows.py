"""Rows of a global batch: which a host holds, and the array made of them."""

from collections.abc import Sequence

import jax
import numpy as np

from ccl_jax.array_types import Array
from ccl_jax.params.sharding import Layout


def local_rows(layout: Layout, batch: int) -> list[int]:
  """Returns the rows of a global batch that this host's devices hold."""
  if layout.mesh is None:
    return list(range(batch))
  parts = layout.rows().addressable_devices_indices_map((batch,)).values()
  return sorted({row for (part,) in parts for row in range(batch)[part]})


def put_rows(
  layout: Layout, batch: int, rows: Sequence[int], local: np.ndarray
) -> Array:
  """Makes a global array from this host's `rows`, which are `local`."""
  if layout.mesh is None:
    return jax.numpy.asarray(local)
  place = {row: i for i, row in enumerate(rows)}

  def part(index):
    wanted = range(batch)[index[0]]
    start = place[wanted.start]
    return local[start : start + len(wanted)][:, *index[1:]]

  shape = (batch, *local.shape[1:])
  return jax.make_array_from_callback(shape, layout.rows(), part)

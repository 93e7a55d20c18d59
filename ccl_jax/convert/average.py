"""The mean of several checkpoints of one run, as a workdir of its own.

    mean_k = mean_{k-1} + (x_k - mean_{k-1}) / k       in float32           (1)

so that what did not change stays as it is. Stacked layers are read and written
row by row, never whole.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath

from ccl_jax import trees
from ccl_jax.checkpoints.streaming import LazyArray, StreamedArray
from ccl_jax.convert import workdirs
from ccl_jax.files import replacing
from ccl_jax.sharding import is_stacked


def average(
  workdir: epath.PathLike, steps: Sequence[int], output: epath.PathLike
) -> dict[str, Any]:
  """Writes the workdir, with the last step's number; returns its `about`.

  It holds the mean of the parameters themselves, not of moving averages, in
  their dtypes.

  Raises:
    ValueError: fewer than two steps, one that is not there, damaged or of
      another model, or too little space.
  """
  steps = sorted(set(steps))
  if len(steps) < 2:
    raise ValueError(f"{steps=}: expected two or more to take the mean of.")
  run = workdirs.open_run(workdir)
  found = [run.params(step, average=False).arrays for step in steps]
  params = {path: _mean(path, [x[path] for x in found]) for path in found[0]}
  about = {
    "model": "ccl",
    "mean_of": steps,
    "settings": dict(run.model),
    "parameters": trees.count(params),
    "source": str(workdir),
  }
  with replacing(output) as partial:
    workdirs.copy_kept(workdir, partial)
    workdirs.write(partial, steps[-1], trees.unflatten(params), about)
  return about


def _mean(path: str, arrays: Sequence[LazyArray]) -> StreamedArray:
  """Eq. 1, when it is written."""
  first, by_row = arrays[0], is_stacked(path)

  def parts() -> Iterator[tuple[int | None, np.ndarray]]:
    for row in range(first.shape[0]) if by_row else [None]:
      mean = np.zeros(first.shape[1:] if by_row else first.shape, np.float32)
      for k, x in enumerate(arrays, 1):
        x = np.asarray(x if row is None else x[row]).astype(np.float32)
        mean += (x - mean) / k
      yield row, mean

  return StreamedArray(first.shape, first.dtype, parts, by_row)

"""The mean of several checkpoints of one run, as a workdir of its own.

    mean_k = mean_{k-1} + (x_k - mean_{k-1}) / k       in float32           (1)

so parameters that are equal in all checkpoints stay exactly the same. Stacked
layers are read and written row by row.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from ccl_jax.checkpoints.streaming import LazyArray
from ccl_jax.convert import workdirs
from ccl_jax.params import trees


def average(
  workdir: epath.PathLike, steps: Sequence[int], output: epath.PathLike
) -> dict[str, Any]:
  """Writes the workdir, under the last step's number; returns its metadata.

  It holds the mean of the parameters themselves, not of their exponential
  moving averages, in their dtypes.

  Raises:
    ValueError: fewer than two steps, one that is missing, damaged or of another
      model, or too little space.
  """
  steps = sorted(set(steps))
  if len(steps) < 2:
    raise ValueError(f"{steps=}: expected two or more to take the mean of.")
  source = workdirs.open_workdir(workdir)
  checkpoints = [source.params(step, ema=False).arrays for step in steps]
  params = {
    path: workdirs.streamed(path, *(x[path] for x in checkpoints), join=_mean)
    for path in checkpoints[0]
  }
  about = {
    "model": "ccl",
    "mean_of": steps,
    "settings": dict(source.model),
    "source": str(workdir),
  }
  return workdirs.make(
    output, steps[-1], trees.unflatten(params), about, workdir
  )


def _mean(*arrays: LazyArray | np.ndarray) -> np.ndarray:
  """Returns Eq. 1."""
  mean = np.float32(0)
  for k, x in enumerate(map(np.asarray, arrays), 1):
    mean = mean + (x.astype(np.float32) - mean) / k
  return mean

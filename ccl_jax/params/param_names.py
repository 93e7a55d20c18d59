"""Properties of a parameter that follow from its path.

    .../kernel                         a matrix or a convolution: multiplied in
                                       the compute dtype, with weight decay
    .../time/..., .../time_rows/...,   time embedding: multiplied in float32
    .../head_rows/...
    .../blocks/..., fusion/...         stacked: the leading axis is the layer

All other parameters stay in float32 and have no weight decay.
"""

_TIME = {"time", "time_rows", "head_rows"}


def is_kernel(path: str) -> bool:
  """Returns whether a parameter is a matrix or a convolution."""
  return path.rpartition("/")[2] == "kernel"


def is_time_embedding(path: str) -> bool:
  """Returns whether a parameter of a stream embeds times."""
  return not _TIME.isdisjoint(path.split("/")[1:-1])


def is_stacked(path: str) -> bool:
  """Returns whether a parameter has a leading axis of layers."""
  return "/blocks/" in path or path.startswith("fusion/")

"""Batches on a mesh: sharded over the batch axes, and in microbatches."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ccl_jax.array_types import STREAMS, Array, PyTree
from ccl_jax.diffusion.objective import Example
from ccl_jax.params.batch_rows import put_rows
from ccl_jax.params.sharding import Layout
from ccl_jax.training.setup import TrainSetup


def abstract_batch(setup: TrainSetup, shapes: Mapping[str, tuple]) -> PyTree:
  """Returns the shapes of the loader's batch, with their shardings.

  Args:
    shapes: of one sample's "video", "audio" and "text".
  """
  layout, b = setup.plan.layout, setup.num_rows
  rows = functools.partial(jax.ShapeDtypeStruct, sharding=layout.rows())
  copy = functools.partial(jax.ShapeDtypeStruct, sharding=layout.sharding())
  half = {k: rows((b, *shape), jnp.float16) for k, shape in shapes.items()}
  flags = {f"has_{s}": rows((b,), jnp.bool_) for s in STREAMS}
  return half | flags | {"null_text": copy(shapes["text"], jnp.float32)}


def put_batch(
  setup: TrainSetup, rows: Sequence[int], local: Mapping[str, Any]
) -> dict[str, Array]:
  """Returns the global batch, padded to `setup.num_rows`.

  Args:
    rows: of the padded batch, on this host.
    local: arrays of `samples_of(setup, rows)`, and the "null_text" that all
      rows share.
  """
  layout = setup.plan.layout
  is_sample = np.asarray(rows) < setup.batch_size
  flags = {k: v & is_sample for k, v in local.items() if k.startswith("has_")}
  local = {**local, **flags}  # no loss of a row without streams
  put = functools.partial(put_rows, layout, setup.num_rows, rows)
  shared = local["null_text"]
  if layout.mesh is not None:
    shared = jax.make_array_from_callback(
      shared.shape, layout.sharding(), lambda index: shared[index]
    )
  return {k: put(v) for k, v in local.items() if k != "null_text"} | {
    "null_text": shared
  }


def samples_of(setup: TrainSetup, rows: Sequence[int]) -> list[int]:
  """Returns the sample that each row holds; padding repeats the first ones."""
  return [row % setup.batch_size for row in rows]


def split_microbatches(example: Example, count: int, layout: Layout) -> Example:
  """Returns (b, ...) as (count, b / count, ...), without communication.

  A microbatch takes rows of every shard of the batch.
  """
  shards = layout.batch_shards()

  def split(x):
    x = x.reshape(shards, count, -1, *x.shape[1:]).swapaxes(0, 1)
    return x.reshape(count, -1, *x.shape[3:])

  return jax.tree.map(split, example)

"""Batches on a mesh: sharded over the batch axes, and in microbatches."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ccl_jax.array_types import STREAMS, Array, PyTree
from ccl_jax.diffusion.objective import Example
from ccl_jax.params import batch_rows
from ccl_jax.params.sharding import Layout
from ccl_jax.training.setup import TrainSetup


def abstract_batch(setup: TrainSetup, shapes: Mapping[str, tuple]) -> PyTree:
  """Returns a batch's shapes from those of a sample, with their shardings."""
  layout, b = setup.plan.layout, setup.num_rows
  rows = functools.partial(jax.ShapeDtypeStruct, sharding=layout.rows())
  copy = functools.partial(jax.ShapeDtypeStruct, sharding=layout.sharding())
  half = {k: rows((b, *shape), jnp.float16) for k, shape in shapes.items()}
  flags = {f"has_{s}": rows((b,), jnp.bool_) for s in STREAMS}
  return half | flags | {"null_text": copy(shapes["text"], jnp.float32)}


def local_rows(setup: TrainSetup) -> list[int]:
  """Returns the rows of the padded batch that this host's devices hold."""
  return batch_rows.local_rows(setup.plan.layout, setup.num_rows)


def local_samples(setup: TrainSetup) -> list[int]:
  """Returns the sample of each of `local_rows`; padding repeats the first."""
  return [row % setup.batch_size for row in local_rows(setup)]


def put_batch(setup: TrainSetup, local: Mapping[str, Any]) -> dict[str, Array]:
  """Returns the global batch, padded to `setup.num_rows`.

  `local` has `local_samples`, and the "null_text" that all rows share.
  """
  layout, rows = setup.plan.layout, local_rows(setup)
  is_sample = np.asarray(rows) < setup.batch_size
  flags = {k: v & is_sample for k, v in local.items() if k.startswith("has_")}
  local = {**local, **flags}  # no loss of a row without streams
  shared = local.pop("null_text")
  put = functools.partial(batch_rows.put_rows, layout, setup.num_rows, rows)
  batch = {k: put(v) for k, v in local.items()}
  if layout.mesh is not None:
    shared = jax.make_array_from_callback(
      shared.shape, layout.sharding(), lambda index: shared[index]
    )
  return batch | {"null_text": shared}


def split_microbatches(example: Example, count: int, layout: Layout) -> Example:
  """Returns (b, ...) as (count, b / count, ...), without communication.

  A microbatch takes rows of every shard of the batch.
  """
  shards = layout.batch_shards()

  def split(x):
    x = x.reshape(shards, count, -1, *x.shape[1:]).swapaxes(0, 1)
    return x.reshape(count, -1, *x.shape[3:])

  return jax.tree.map(split, example)

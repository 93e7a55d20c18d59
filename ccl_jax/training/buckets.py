"""The training steps of all shapes of clips, a separate program each."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from ccl_jax.config import build
from ccl_jax.data.loader import Loader
from ccl_jax.data.mixture import Shapes
from ccl_jax.training import step, throughput
from ccl_jax.training.batch import abstract_batch, local_samples
from ccl_jax.training.setup import TrainSetup, flop_shape
from ccl_jax.training.state import abstract_state
from ccl_jax.training.throughput import StepCost


class BucketStep(NamedTuple):
  """The step of one shape.

  Attributes:
    setup: with its batch size and times.
    cost: of a step.
    train_step: `step.train_step`, compiled at its first call or before.
  """

  setup: TrainSetup
  cost: StepCost
  train_step: Callable


def make_loader(
  setup: TrainSetup, data: Mapping[str, Any], **changes
) -> Loader:
  """Returns a loader of the rows that this host's devices hold.

  Args:
    data: the section of the config.
    changes: arguments in place of its keys.
  """

  def rows(batch_size: int) -> list[int]:
    return local_samples(dataclasses.replace(setup, batch_size=batch_size))

  def count_tokens(shapes: Shapes) -> float:
    shape = flop_shape(setup, shapes)
    return throughput.count_tokens(setup.plan.settings, shape)

  parts = setup.grad_accumulation_steps * setup.plan.layout.batch_shards()
  return build(
    Loader, {**data, **changes}, "data", batch_size=setup.batch_size,
    seed=setup.seed, rows=rows, count_tokens=count_tokens, multiple_of=parts,
  )  # fmt: skip


def make_setups(setup: TrainSetup, loader: Loader) -> list[TrainSetup]:
  """Returns the setup of each bucket; raises as `TrainSetup`."""
  return [
    dataclasses.replace(
      setup,
      batch_size=size,
      objective=setup.objective.for_shapes(bucket.shapes),
    )
    for bucket, size in zip(loader.buckets, loader.batch_sizes, strict=True)
  ]


def make_steps(setup: TrainSetup, loader: Loader) -> list[BucketStep]:
  """Returns the step of each bucket; of several each is compiled here."""
  mesh = setup.plan.layout.mesh
  devices = jax.devices()[:1] if mesh is None else list(mesh.devices.flat)
  steps = []
  for bucket, own in zip(
    loader.buckets, make_setups(setup, loader), strict=True
  ):
    train_step = step.compile_step(own)
    if len(loader.buckets) > 1:
      batch = abstract_batch(own, bucket.shapes)
      train_step = train_step.lower(abstract_state(own), batch).compile()
    cost = throughput.make_step_cost(
      own.plan.settings, flop_shape(own, bucket.shapes), own.batch_size, devices
    )
    steps.append(BucketStep(own, cost, train_step))
  return steps

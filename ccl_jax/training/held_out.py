"""The loss on held-out clips, at times and with noise that never change.

The keys of the draws come from the seed and the number of the batch alone, so
that two steps of a run, or two runs, differ by their parameters only. No text
is dropped. Names are those of the training metrics after "held_out/": tasks,
streams and fifths of the times.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ccl_jax.array_types import Array, PyTree
from ccl_jax.training import step
from ccl_jax.training.batch import split_microbatches
from ccl_jax.training.setup import HELD_OUT, TrainSetup, make_key


class HeldOutLoss:
  """A function of parameters, compiled once for each setup.

  Args:
    batch_at: returns a global batch by its number, always the same, and its
      setup.
    num_batches: how many there are.
  """

  def __init__(
    self,
    batch_at: Callable[[int], tuple[Mapping[str, Any], TrainSetup]],
    num_batches: int,
  ):
    self._batch_at, self._num = batch_at, num_batches
    self._compiled: dict[int, Callable] = {}

  def __call__(self, params: PyTree) -> dict[str, float]:
    """Returns name -> mean over the samples of a group, of those with any."""
    parts = [self._evaluate(params, i) for i in range(self._num)]
    value, metrics = jax.device_get(
      jax.tree.map(lambda *x: sum(x[1:], x[0]), *parts)
    )
    means = {
      name: float(metrics["sum"][name] / count)
      for name, count in metrics["count"].items()
      if count
    }
    means = {"loss": float(value) / self._num} | means
    return {f"held_out/{name}": mean for name, mean in means.items()}

  def _evaluate(self, params: PyTree, number: int) -> tuple[Array, PyTree]:
    batch, setup = self._batch_at(number)
    if id(setup) not in self._compiled:
      self._compiled[id(setup)] = jax.jit(
        functools.partial(evaluate, setup=setup)
      )
    place = jnp.asarray(number, jnp.int32)
    return self._compiled[id(setup)](params, batch, place)


def evaluate(
  params: PyTree, batch: Mapping[str, Any], number: Array, setup: TrainSetup
) -> tuple[Array, PyTree]:
  """Returns the loss of a batch, and its sums and counts by group."""
  objective = dataclasses.replace(setup.objective, text_dropout=0.0)
  setup = dataclasses.replace(setup, objective=objective)
  key = make_key(setup.seed, number, HELD_OUT)
  example = step.make_example(batch, key, setup)
  count = setup.grad_accumulation_steps
  value, metrics = jax.lax.map(
    lambda part: step.loss_and_metrics(params, part, setup),
    split_microbatches(example, count, setup.plan.layout),
  )
  return value.mean(), jax.tree.map(lambda x: x.sum(0), metrics)

"""The loss on held-out clips, with times and noise that never change.

The random keys depend on the seed and the index of the batch alone, so that the
losses of two steps, or of two runs, differ only by their parameters. No text is
dropped. The names are those of the training metrics after "held_out/": tasks,
streams and fifths of the times.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ccl_jax.array_types import Array, PyTree
from ccl_jax.data.mixture import main_path
from ccl_jax.training import buckets, log, step
from ccl_jax.training.batch import put_batch, split_microbatches
from ccl_jax.training.setup import HELD_OUT, TrainSetup, make_key

Evaluate = Callable[[PyTree, Mapping[str, Any], Array], tuple[Array, PyTree]]


class HeldOutLoss:
  """A function of parameters.

  Args:
    batch_at: returns a global batch by its number, always the same, and the
      program for its shape (`make_evaluate`).
    num_batches: how many there are.
  """

  def __init__(
    self,
    batch_at: Callable[[int], tuple[Mapping[str, Any], Evaluate]],
    num_batches: int,
  ):
    self._batch_at, self._num = batch_at, num_batches

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
    return {log.HELD_OUT_PREFIX + name: mean for name, mean in means.items()}

  def _evaluate(self, params: PyTree, number: int) -> tuple[Array, PyTree]:
    batch, evaluate = self._batch_at(number)
    return evaluate(params, batch, jnp.asarray(number, jnp.int32))


def make_held_out(
  setup: TrainSetup, data: Mapping[str, Any], split: str, num_batches: int
) -> HeldOutLoss:
  """Returns the loss on the first batches of a split, in the records' order.

  Args:
    data: the section of the config; of several data sets the first is taken.
  """
  loader = buckets.make_loader(
    setup, data, path=main_path(data), sources=(), split=split, shuffle=False,
    num_threads=0, sample_posterior=False,
  )  # fmt: skip
  setups = buckets.make_setups(setup, loader)
  programs = [make_evaluate(own) for own in setups]

  def batch_at(i: int) -> tuple[Mapping[str, Any], Evaluate]:
    k = loader.bucket_at(i)
    rows = buckets.local_rows(setups[k])
    return put_batch(setups[k], rows, loader.batch_at(i)), programs[k]

  return HeldOutLoss(batch_at, num_batches)


def make_evaluate(setup: TrainSetup) -> Evaluate:
  """Returns `evaluate` of a setup, compiled at its first call."""
  return jax.jit(functools.partial(evaluate, setup=setup))


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

"""The loss on held-out clips, with times and noise that never change.

The random keys depend on the seed and the index of the batch alone, so that the
losses of two steps, or of two runs, differ only by their parameters. No text is
dropped. The names are those of the training metrics after "held_out/": tasks,
streams and fifths of the times.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ccl_jax.array_types import Array, PyTree
from ccl_jax.data.mixture import main_path
from ccl_jax.training import buckets, log, step
from ccl_jax.training.batch import put_batch, split_microbatches
from ccl_jax.training.setup import HELD_OUT, TrainSetup, make_key

Evaluate = Callable[[PyTree, Mapping[str, Any], Array], tuple[Array, PyTree]]


def mean_losses(
  params: PyTree, batches: Iterable[tuple[Mapping[str, Any], Evaluate]]
) -> dict[str, float]:
  """Returns name -> mean over the samples of a group, of those with any.

  Args:
    batches: global batches, always the same, and `evaluate`, jitted for the
      shape of each.
  """
  parts = [
    program(params, batch, jnp.asarray(number, jnp.int32))
    for number, (batch, program) in enumerate(batches)
  ]
  value, metrics = jax.device_get(
    jax.tree.map(lambda *x: sum(x[1:], x[0]), *parts)
  )
  means = {
    name: float(metrics["sum"][name] / count)
    for name, count in metrics["count"].items()
    if count
  }
  means = {"loss": float(value) / len(parts)} | means
  return {log.HELD_OUT_PREFIX + name: mean for name, mean in means.items()}


def make_held_out(
  setup: TrainSetup, data: Mapping[str, Any], split: str, num_batches: int
) -> Callable[[PyTree], dict[str, float]]:
  """Returns `mean_losses` of the first batches of a split, in records' order.

  Args:
    data: the section of the config; of several data sets the first is taken.
  """
  loader = buckets.make_loader(
    setup, data, path=main_path(data), sources=(), split=split, shuffle=False,
    num_threads=0, sample_posterior=False,
  )  # fmt: skip
  setups = buckets.make_setups(setup, loader)
  programs = [jax.jit(functools.partial(evaluate, setup=own)) for own in setups]

  def batches() -> Iterator[tuple[Mapping[str, Any], Evaluate]]:
    for i in range(num_batches):
      k = loader.bucket_at(i)
      yield put_batch(setups[k], loader.batch_at(i)), programs[k]

  return lambda params: mean_losses(params, batches())


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

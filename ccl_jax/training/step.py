"""One training step as a pure function of (state, batch).

The loss of a batch of mixed tasks, its gradient over parts of the batch, and an
update that is left out where a number is not finite.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ccl_jax import trees
from ccl_jax.array_types import STREAMS, Array, Bool, PyTree
from ccl_jax.diffusion.objective import Example, loss, make_training_example
from ccl_jax.models import joint
from ccl_jax.training.batch import split_rows
from ccl_jax.training.setup import TRAIN, TrainSetup, make_key
from ccl_jax.training.state import state_shardings


def make_example(
  batch: Mapping[str, Any], key: Array, setup: TrainSetup
) -> Example:
  """What the batch becomes; streams that the model lacks are left out."""
  absent = [s for s in STREAMS if s not in setup.streams]
  batch = {k: v for k, v in batch.items() if k not in absent}
  return make_training_example(key, batch, setup.objective)


def loss_and_metrics(
  params: PyTree, example: Example, setup: TrainSetup
) -> tuple[Array, dict[str, dict[str, Array]]]:
  """The mixed-task loss of an example, and its sums and counts by task."""
  predicted = joint.velocity(
    setup.graph, params, example.x_t, example.t, example.text, example.route
  )
  return loss(predicted, example, setup.objective)


def gradients(
  state: PyTree, example: Example, setup: TrainSetup
) -> tuple[tuple[Array, PyTree], PyTree]:
  """((loss, metrics), gradients), over parts of the batch one by one.

  The mean over equal parts is the mean over the batch.
  """

  def objective(trainable, example):
    params = trees.join(trainable, state["frozen"])
    return loss_and_metrics(params, example, setup)

  count = setup.grad_accumulation_steps
  take = functools.partial(
    jax.value_and_grad(objective, has_aux=True), state["trainable"]
  )
  if count == 1:
    return take(example)

  def add(total, part):
    return jax.tree.map(jnp.add, total, take(part)), None

  parts = split_rows(example, count, setup.layout)
  first = jax.eval_shape(take, jax.tree.map(lambda x: x[0], parts))
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), first)
  ((value, metrics), grads), _ = jax.lax.scan(add, zeros, parts)
  mean = functools.partial(jax.tree.map, lambda x: x / count)
  return (mean(value), metrics), mean(grads)


def train_step(
  state: PyTree, batch: Mapping[str, Any], setup: TrainSetup
) -> tuple[PyTree, PyTree]:
  """One update. Returns the new state and scalar metrics.

  Where the loss or the gradient is not finite, only `step` and `skipped` move.

  Metrics are "loss", "grad_norm", "rate", "skipped" (in a row), and those of
  `objective.loss`: sums and counts, whose ratio is a mean.
  """
  key = make_key(setup.seed, state["step"], TRAIN)
  example = make_example(batch, key, setup)
  (value, metrics), grads = gradients(state, example, setup)
  norm = optax.tree.norm(grads)
  is_finite = jnp.isfinite(value) & jnp.isfinite(norm)
  new = update_if(is_finite, state, grads, setup)
  new["step"] = state["step"] + 1
  new["skipped"] = jnp.where(is_finite, 0, state["skipped"] + 1)
  scalars = {
    "loss": value,
    "grad_norm": norm,
    "rate": setup.schedule(state["step"]),
    "skipped": new["skipped"],
  }
  return new, metrics | scalars


def update_if(
  is_finite: Bool[Array, ""], state: PyTree, grads: PyTree, setup: TrainSetup
) -> PyTree:
  """`update` where the step is finite, else the same state.

  A branch on a CPU, whose XLA copies parameters and moments for a `where`; not
  elsewhere, as a branch makes a GPU's host wait for the gradients.
  """
  step = functools.partial(update, setup=setup)

  def branch(state, grads):
    return jax.lax.cond(is_finite, step, lambda s, _: dict(s), state, grads)

  def select(state, grads):
    choose = functools.partial(jnp.where, is_finite)
    return jax.tree.map(choose, step(state, grads), state)

  return jax.lax.platform_dependent(state, grads, cpu=branch, default=select)


def update(state: PyTree, grads: PyTree, setup: TrainSetup) -> PyTree:
  """The state after an optimizer step with these gradients."""
  updates, optimizer = setup.transform.update(
    grads, state["optimizer"], state["trainable"]
  )
  trainable = optax.apply_updates(state["trainable"], updates)
  average = state["ema"]
  if average:
    # Early on the average would remember the random start: grow the decay.
    decay = jnp.minimum(
      setup.optimizer.ema_decay, (1 + state["step"]) / (10 + state["step"])
    )
    average = optax.incremental_update(trainable, average, 1 - decay)
  return state | {
    "trainable": trainable, "ema": average, "optimizer": optimizer,
  }  # fmt: skip


def compile_step(setup: TrainSetup):
  """`train_step` for one setup, jitted, donating the state."""
  shardings = state_shardings(setup)
  return jax.jit(
    functools.partial(train_step, setup=setup),
    donate_argnums=0,
    out_shardings=None if shardings is None else (shardings, None),
    compiler_options=dict(setup.compiler_options),
  )

"""One training step as a pure function of (state, batch).

It computes the loss of a batch of mixed tasks, accumulates gradients over
microbatches, and skips the update if the loss or the gradient is not finite.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ccl_jax.array_types import STREAMS, Array, Bool, PyTree
from ccl_jax.diffusion.loss import loss
from ccl_jax.diffusion.objective import Example, make_training_example
from ccl_jax.models import functional
from ccl_jax.models.plan import ModelPlan, make_plan
from ccl_jax.ops import cpu
from ccl_jax.params import lora, trees
from ccl_jax.training.batch import split_microbatches
from ccl_jax.training.setup import DROPOUT, TRAIN, TrainSetup, make_key
from ccl_jax.training.state import state_shardings


def make_example(
  batch: Mapping[str, Any], key: Array, setup: TrainSetup
) -> Example:
  """Returns a batch with tasks and noise drawn, of the model's streams only."""
  absent = [s for s in STREAMS if s not in setup.plan.streams]
  batch = {k: v for k, v in batch.items() if k not in absent}
  return make_training_example(key, batch, setup.objective)


def loss_and_metrics(
  params: PyTree,
  example: Example,
  setup: TrainSetup,
  plan: ModelPlan | None = None,
) -> tuple[Array, dict[str, dict[str, Array]]]:
  """Returns the mixed-task loss, and its sums and counts by task.

  Args:
    plan: of the model, if its layout is not that of the whole batch.
  """
  predicted = functional.velocity(
    (plan or setup.plan).graph, params,
    example.x_t, example.t, example.text, example.route, example.image,
  )  # fmt: skip
  value, metrics = loss(predicted, example, setup.objective)
  if setup.num_rows > setup.batch_size:  # a mean over rows; over samples:
    value *= setup.num_rows / setup.batch_size
  return value, metrics


def gradients(
  state: PyTree, example: Example, setup: TrainSetup
) -> tuple[tuple[Array, PyTree], PyTree]:
  """Returns ((loss, metrics), gradients), accumulated over microbatches.

  These are of equal size, so the mean over them is the mean over the batch.
  Where every shard of `data` has a copy of the parameters, as slices do, each
  adds up its own gradients, and they are reduced over `data` once a step.
  """
  count, layout = setup.grad_accumulation_steps, setup.plan.layout
  copies = layout.copies("data") if count > 1 else 1
  plan = setup.plan
  if copies > 1:
    plan = make_plan(plan.settings, layout.without("data"), plan.lora)

  def loss_of(trainable, example):
    params = trees.join(trainable, state["frozen"])
    if rate := setup.plan.lora.dropout:
      key = make_key(setup.seed, state["step"], DROPOUT)
      params = lora.drop(params, key, rate)
    return loss_and_metrics(params, example, setup, plan)

  value_and_grad = functools.partial(
    jax.value_and_grad(loss_of, has_aux=True), state["trainable"]
  )
  if count == 1:
    return value_and_grad(example)
  microbatches = split_microbatches(example, count, layout)
  if copies > 1:
    value_and_grad = jax.vmap(value_and_grad, spmd_axis_name="data")
    microbatches = jax.tree.map(
      lambda x: x.reshape(count, copies, -1, *x.shape[2:]), microbatches
    )

  def add(total, microbatch):
    return jax.tree.map(jnp.add, total, value_and_grad(microbatch)), None

  first = jax.eval_shape(
    value_and_grad, jax.tree.map(lambda x: x[0], microbatches)
  )
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), first)
  if copies > 1:
    zeros = (zeros[0], _own_gradients(zeros[1], plan))
  total, _ = jax.lax.scan(add, zeros, microbatches)
  if copies > 1:
    total = jax.tree.map(lambda x: x.sum(0), total)
  (value, metrics), grads = total
  mean = functools.partial(jax.tree.map, lambda x: x / (count * copies))
  return (mean(value), metrics), mean(grads)


def _own_gradients(grads: PyTree, plan: ModelPlan) -> PyTree:
  """Constrains (data, ...) gradients to stay on their own shard of `data`."""
  leaves = trees.flatten(grads)
  for path, spec in plan.layout.match(grads, idle_ok=True).items():
    sharding = plan.layout.sharding("data", *spec)
    leaves[path] = jax.lax.with_sharding_constraint(leaves[path], sharding)
  return trees.unflatten(leaves)


def train_step(
  state: PyTree, batch: Mapping[str, Any], setup: TrainSetup
) -> tuple[PyTree, PyTree]:
  """Returns the state after one step, and metrics.

  If the loss or the gradient is not finite, only `step` and `skipped` change.

  Metrics are "loss", "grad_norm", "learning_rate_factor" (of the schedule,
  which counts updates, not skipped steps), "skipped" (steps in a row), and
  those of `loss.loss`: sums and counts, whose ratio is a mean.
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
    "learning_rate_factor": setup.schedule(state["optimizer"][-1].count),
    "skipped": new["skipped"],
  }
  return new, metrics | scalars


def update_if(
  is_finite: Bool[Array, ""], state: PyTree, grads: PyTree, setup: TrainSetup
) -> PyTree:
  """Returns the updated state if the step is finite, else the same state.

  It selects instead of branching: a GPU's host would wait for the condition.
  """
  step = functools.partial(update, setup=setup)

  @cpu.replaced_on_cpu(cpu.branch(is_finite, step))
  def select(state, grads):
    choose = functools.partial(jnp.where, is_finite)
    return jax.tree.map(choose, step(state, grads), state)

  return select(state, grads)


def update(state: PyTree, grads: PyTree, setup: TrainSetup) -> PyTree:
  """Returns the state after an optimizer step with these gradients."""
  updates, optimizer = setup.transform.update(
    grads, state["optimizer"], state["trainable"]
  )
  trainable = optax.apply_updates(state["trainable"], updates)
  average = state["ema"]
  if average:
    # A smaller decay at first, or the average would keep the random start.
    decay = jnp.minimum(
      setup.optimizer.ema_decay, (1 + state["step"]) / (10 + state["step"])
    )
    average = optax.incremental_update(trainable, average, 1 - decay)
  return state | {
    "trainable": trainable, "ema": average, "optimizer": optimizer,
  }  # fmt: skip


def compile_step(setup: TrainSetup):
  """Returns `train_step` for one setup, jitted; it donates the state."""
  shardings = state_shardings(setup)
  return jax.jit(
    functools.partial(train_step, setup=setup),
    donate_argnums=0,
    out_shardings=None if shardings is None else (shardings, None),
    compiler_options=dict(setup.compiler_options),
  )

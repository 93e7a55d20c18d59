"""One training step as a pure function of (state, batch).

The state is a plain dict: step, trainable and frozen parameters, the moving
average of the trainable ones, the optimizer's state. Randomness is

    key = fold_in(fold_in(key(seed), step), purpose)                       (1)

so that a step does not depend on what ran before it, and a run that is killed
and resumed equals one that never stopped.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from ccl_jax import trees
from ccl_jax.diffusion.objective import (
  Objective,
  loss,
  make_training_example,
)
from ccl_jax.models import joint
from ccl_jax.training.optim import Optimizer
from ccl_jax.types import STREAMS, Array, PyTree

TRAIN, INIT, EVAL = range(3)  # purposes of eq. 1


@dataclasses.dataclass(frozen=True)
class Recipe:
  """All that is static in a step; made by `make_recipe`."""

  graph: nnx.GraphDef
  objective: Objective
  optimizer: Optimizer
  transform: optax.GradientTransformation
  schedule: optax.Schedule
  streams: tuple[str, ...]
  seed: int


def make_recipe(
  model: Mapping,
  objective: Objective,
  optimizer: Optimizer,
  num_steps: int,
  seed: int,
) -> Recipe:
  """A recipe from the `model` section and the two settings."""
  graph, params = joint.describe(model)
  trainable, _ = optimizer.split(params)
  streams = tuple(s for s in STREAMS if s in params)
  return Recipe(
    graph, objective, optimizer, optimizer.transform(trainable, num_steps),
    optimizer.schedule(num_steps), streams, seed,
  )  # fmt: skip


def make_key(seed: int, step: int | Array, purpose: int) -> Array:
  """Eq. 1."""
  return jax.random.fold_in(
    jax.random.fold_in(jax.random.key(seed), step), purpose
  )


def init_state(model: Mapping, recipe: Recipe) -> PyTree:
  """A new state, made by one compiled program."""

  def init():
    params = joint.init_params(model, make_key(recipe.seed, 0, INIT))
    trainable, frozen = recipe.optimizer.split(params)
    return {
      "step": jnp.zeros((), jnp.int32),
      "trainable": trainable,
      "frozen": frozen,
      "ema": jax.tree.map(jnp.copy, trainable),
      "optimizer": recipe.transform.init(trainable),
    }

  return jax.jit(init)()


def state_params(state: PyTree, average: bool = False) -> PyTree:
  """The model's parameters, or their moving average."""
  half = state["ema" if average else "trainable"]
  return trees.join(half, state["frozen"])


def loss_and_metrics(
  params: PyTree, batch: Mapping[str, Any], key: Array, recipe: Recipe
) -> tuple[Array, dict[str, dict[str, Array]]]:
  """The mixed-task loss of a batch, and its sums and counts by task.

  Streams that the model does not have are left out of the batch.
  """
  absent = [s for s in STREAMS if s not in recipe.streams]
  batch = {k: v for k, v in batch.items() if k not in absent}
  example = make_training_example(key, batch, recipe.objective)
  predicted = joint.velocity(
    recipe.graph, params, example.x_t, example.t, example.text, example.route
  )
  return loss(predicted, example, recipe.objective)


def train_step(
  state: PyTree, batch: Mapping[str, Any], recipe: Recipe
) -> tuple[PyTree, PyTree]:
  """One update. Returns the new state and scalar metrics.

  Metrics are "loss", "grad_norm", "rate", and "sum" and "count" by task and
  stream (their ratio is the mean loss; a task may be absent from a batch).
  """
  key = make_key(recipe.seed, state["step"], TRAIN)

  def objective(trainable):
    params = trees.join(trainable, state["frozen"])
    return loss_and_metrics(params, batch, key, recipe)

  (value, metrics), grads = jax.value_and_grad(objective, has_aux=True)(
    state["trainable"]
  )
  updates, optimizer = recipe.transform.update(
    grads, state["optimizer"], state["trainable"]
  )
  trainable = optax.apply_updates(state["trainable"], updates)
  # Early on the average would remember the random start: grow the decay.
  decay = jnp.minimum(
    recipe.optimizer.ema, (1 + state["step"]) / (10 + state["step"])
  )
  new = {
    "step": state["step"] + 1,
    "trainable": trainable,
    "frozen": state["frozen"],
    "ema": optax.incremental_update(trainable, state["ema"], 1 - decay),
    "optimizer": optimizer,
  }
  norm = optax.tree.norm(grads)
  rate = recipe.schedule(state["step"])
  return new, metrics | {"loss": value, "grad_norm": norm, "rate": rate}


def compile_step(recipe: Recipe):
  """`train_step` for one recipe, jitted, donating the state."""
  return jax.jit(functools.partial(train_step, recipe=recipe), donate_argnums=0)

"""The training state: a plain dict, sharded by the rules of the parameters.

    step, skipped          counts; skipped: consecutive steps without an update
    trainable, frozen      the parameters, in two trees
    ema                    the moving average of the trainable ones, or nothing
    optimizer              optax's, for the trainable ones

It is created on its devices; its shapes are known before.
"""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from ccl_jax.array_types import Array, PyTree
from ccl_jax.models import functional
from ccl_jax.params import trees
from ccl_jax.params.sharding import with_shardings
from ccl_jax.training.setup import INIT, TrainSetup, make_key


def make_state(setup: TrainSetup, params: PyTree) -> PyTree:
  """Returns the state before the first step."""
  trainable, frozen = setup.optimizer.split(params)
  dtype = setup.optimizer.frozen_dtype
  is_used = dtype == "compute"
  frozen = {
    path: x.astype(setup.plan.compute_dtype(path) if is_used else dtype)
    for path, x in trees.flatten(frozen).items()
  }
  average = (
    jax.tree.map(jnp.copy, trainable) if setup.optimizer.ema_decay else {}
  )
  return {
    "step": jnp.zeros((), jnp.int32),
    "skipped": jnp.zeros((), jnp.int32),
    "trainable": trainable,
    "frozen": trees.unflatten(frozen),
    "ema": average,
    "optimizer": setup.transform.init(trainable),
  }


def init_state(setup: TrainSetup) -> PyTree:
  """Returns a new state, made on its devices by one compiled program."""

  def init():
    key = make_key(setup.seed, 0, INIT)
    params = functional.init_params(setup.plan.settings, key, setup.plan.lora)
    return make_state(setup, params)

  return jax.jit(init, out_shardings=state_shardings(setup))()


def abstract_state(setup: TrainSetup) -> PyTree:
  """Returns the state's shapes with their shardings; allocates nothing."""
  shapes = jax.eval_shape(
    functools.partial(make_state, setup), setup.plan.shapes
  )
  shardings = state_shardings(setup)
  return with_shardings(shapes, shardings) if shardings else shapes


def state_shardings(setup: TrainSetup) -> PyTree | None:
  """Returns the sharding of each part of the state; None without a mesh."""
  layout = setup.plan.layout
  if layout.mesh is None:
    return None
  shapes = jax.eval_shape(
    functools.partial(make_state, setup), setup.plan.shapes
  )
  shardings = jax.tree.map(lambda _: layout.sharding(), shapes)
  for part in ("trainable", "frozen", "ema"):
    shardings[part] = setup.plan.shardings(shapes[part])
  shardings["optimizer"] = optax.tree.map_params(
    setup.transform, lambda _, s: s, shapes["optimizer"],
    shardings["trainable"], transform_non_params=lambda _: layout.sharding(),
  )  # fmt: skip
  return shardings


def replace_params(state: PyTree, params: Mapping[str, Array]) -> PyTree:
  """Returns the state with parameters replaced by path, in the average too."""
  new = dict(state)
  for part in ("trainable", "frozen", "ema"):
    leaves = trees.flatten(state[part])
    found = {
      p: params[p].astype(leaves[p].dtype) for p in leaves if p in params
    }
    new[part] = trees.unflatten(leaves | found)
  # The step donates its state: the average must not share its arrays.
  new["ema"] = jax.tree.map(jnp.copy, new["ema"])
  return new


def state_params(state: PyTree, average: bool = False) -> PyTree:
  """Returns the model's parameters, or their moving average if it exists."""
  part = state["ema" if average and state["ema"] else "trainable"]
  return trees.join(part, state["frozen"])


def describe_trainable(state: PyTree) -> str:
  """Returns a line that says how many of the parameters learn."""
  num, rest = (trees.count(state[part]) for part in ("trainable", "frozen"))
  total = num + rest
  return f"Training {num:,} of {total:,} parameters ({num / total:.1%})."

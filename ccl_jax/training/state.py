"""The training state: a plain dict, split on a mesh by the parameters' rules.

    step, skipped          counts; skipped: steps in a row without an update
    trainable, frozen      the parameters, in two trees
    ema                    the moving average of the trainable ones, or nothing
    optimizer              optax's, for the trainable ones

It is created where it will live, and its shapes are known before anything is.
"""

import functools
import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from ccl_jax import trees
from ccl_jax.array_types import Array, PyTree
from ccl_jax.models import joint
from ccl_jax.training.setup import INIT, TrainSetup, make_key

_FLOAT32 = re.compile(r"/time(_rows)?/")  # multiplied in it, see `models.dit`


def make_state(setup: TrainSetup, params: PyTree) -> PyTree:
  """The state before the first step."""
  trainable, frozen = setup.optimizer.split(params)
  dtype = jnp.dtype(setup.optimizer.frozen_dtype)
  average = (
    jax.tree.map(jnp.copy, trainable) if setup.optimizer.ema_decay else {}
  )
  return {
    "step": jnp.zeros((), jnp.int32),
    "skipped": jnp.zeros((), jnp.int32),
    "trainable": trainable,
    "frozen": jax.tree.map(lambda x: x.astype(dtype), frozen),
    "ema": average,
    "optimizer": setup.transform.init(trainable),
  }


def init_state(setup: TrainSetup) -> PyTree:
  """A new state, made by one compiled program where it will live."""

  def init():
    key = make_key(setup.seed, 0, INIT)
    return make_state(setup, joint.init_params(setup.model, key))

  return jax.jit(init, out_shardings=state_shardings(setup))()


def abstract_state(setup: TrainSetup) -> PyTree:
  """The state's shapes with their shardings; allocates nothing."""
  shapes = jax.eval_shape(functools.partial(make_state, setup), setup.shapes)
  if setup.layout.mesh is None:
    return shapes
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    shapes,
    state_shardings(setup),
  )


def state_shardings(setup: TrainSetup) -> PyTree | None:
  """Where each part of the state lives; None without a mesh."""
  layout = setup.layout
  if layout.mesh is None:
    return None
  shapes = jax.eval_shape(functools.partial(make_state, setup), setup.shapes)
  shardings = jax.tree.map(lambda _: layout.sharding(), shapes)
  for half in ("trainable", "frozen", "ema"):
    shardings[half] = param_shardings(setup, shapes[half])
  shardings["optimizer"] = optax.tree.map_params(
    setup.transform, lambda _, s: s, shapes["optimizer"],
    shardings["trainable"], transform_non_params=lambda _: layout.sharding(),
  )  # fmt: skip
  return shardings


def param_shardings(setup: TrainSetup, part: PyTree) -> PyTree:
  """The shardings of some of the parameters."""
  specs = trees.flatten(setup.layout.param_specs(setup.shapes))
  return trees.unflatten(
    {path: setup.layout.sharding(*specs[path]) for path in trees.flatten(part)}
  )


def abstract_params(setup: TrainSetup) -> PyTree:
  """The parameters' shapes with their shardings."""
  state = abstract_state(setup)
  return trees.join(state["trainable"], state["frozen"])


def sampling_params(setup: TrainSetup) -> PyTree:
  """`abstract_params`, with kernels in the dtype that they are multiplied in.

  It takes half the memory in bfloat16 and gives the same results, bit for bit.
  """
  dtype = jnp.dtype(setup.model["dtype"])

  def cast(path: str, x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    is_cast = path.endswith("/kernel") and not _FLOAT32.search(path)
    return x.update(dtype=dtype) if is_cast else x

  leaves = trees.flatten(abstract_params(setup))
  return trees.unflatten({path: cast(path, x) for path, x in leaves.items()})


def replace_params(state: PyTree, params: Mapping[str, Array]) -> PyTree:
  """The state with parameters given by path, also as their own average."""
  new = dict(state)
  for half in ("trainable", "frozen", "ema"):
    leaves = trees.flatten(state[half])
    found = {
      p: params[p].astype(leaves[p].dtype) for p in leaves if p in params
    }
    new[half] = trees.unflatten(leaves | found)
  # The step donates its state: the average must not share its arrays.
  new["ema"] = jax.tree.map(jnp.copy, new["ema"])
  return new


def state_params(state: PyTree, average: bool = False) -> PyTree:
  """The model's parameters, or their moving average where there is one."""
  half = state["ema" if average and state["ema"] else "trainable"]
  return trees.join(half, state["frozen"])

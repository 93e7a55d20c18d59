"""One training step as a pure function of (state, batch).

The state is a plain dict: step, trainable and frozen parameters, the moving
average of the trainable ones, the optimizer's state, and how many steps in a
row were skipped because a number in them was not finite. Randomness is

    key = fold_in(fold_in(key(seed), step), purpose)                       (1)

so that a step does not depend on what ran before it, and a run that is killed
and resumed equals one that never stopped. On a mesh, parameters, average and
optimizer are split by the same rules, and so are created and restored.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from ccl_jax import trees
from ccl_jax.config import build
from ccl_jax.cost import flops
from ccl_jax.diffusion.objective import (
  Example,
  Objective,
  loss,
  make_training_example,
)
from ccl_jax.models import joint
from ccl_jax.sharding import Layout, make_layout, put_rows
from ccl_jax.training import compiler
from ccl_jax.training.optim import Optimizer
from ccl_jax.types import STREAMS, Array, PyTree

TRAIN, INIT, EVAL = range(3)  # purposes of eq. 1


@dataclasses.dataclass(frozen=True)
class Recipe:
  """All that is static in a step; made by `make_recipe`.

  Attributes:
    model: the config's section.
    graph, shapes: the model's static half, its parameters' shapes.
    batch: samples in a step, of which 1 / accumulate go through the model at
      once.
    options: for the compiler.
  """

  model: Mapping[str, Any]
  graph: nnx.GraphDef
  shapes: PyTree
  layout: Layout
  objective: Objective
  optimizer: Optimizer
  transform: optax.GradientTransformation
  schedule: optax.Schedule
  streams: tuple[str, ...]
  seed: int
  batch: int
  accumulate: int
  options: Mapping[str, Any]


def make_recipe(config: Mapping[str, Any], devices=None) -> Recipe:
  """The recipe of a config, for `devices` (all that this run has, if None).

  Raises:
    ValueError: a section's key or value that is wrong, rules that do not fit,
      or a batch that the mesh and the accumulation do not divide.
  """
  layout = make_layout(config["mesh"], config["sharding"], devices)
  optimizer = build(Optimizer, config["optimizer"], "optimizer")
  graph, shapes = joint.describe(config["model"], layout)
  if layout.mesh is not None:
    layout.param_specs(shapes)
  trainable, _ = optimizer.split(shapes)
  batch, accumulate = config["batch"], config["accumulate"]
  if accumulate < 1 or batch % (accumulate * layout.batch_shards()):
    raise ValueError(
      f"{batch=} cannot be {accumulate=} parts, each split over"
      f" {layout.batch_shards()} shards of the mesh: choose multiples."
    )
  return Recipe(
    model=config["model"],
    graph=graph,
    shapes=shapes,
    layout=layout,
    objective=build(Objective, config["objective"], "objective"),
    optimizer=optimizer,
    transform=optimizer.transform(trainable, config["steps"]),
    schedule=optimizer.schedule(config["steps"]),
    streams=tuple(s for s in STREAMS if s in shapes),
    seed=config["seed"],
    batch=batch,
    accumulate=accumulate,
    options=compiler.options(config["xla"], layout.device.device_kind),
  )


def make_key(seed: int, step: int | Array, purpose: int) -> Array:
  """Eq. 1."""
  return jax.random.fold_in(
    jax.random.fold_in(jax.random.key(seed), step), purpose
  )


def make_state(recipe: Recipe, params: PyTree) -> PyTree:
  """The state before the first step."""
  trainable, frozen = recipe.optimizer.split(params)
  dtype = jnp.dtype(recipe.optimizer.frozen_dtype)
  average = jax.tree.map(jnp.copy, trainable) if recipe.optimizer.ema else {}
  return {
    "step": jnp.zeros((), jnp.int32),
    "skipped": jnp.zeros((), jnp.int32),
    "trainable": trainable,
    "frozen": jax.tree.map(lambda x: x.astype(dtype), frozen),
    "ema": average,
    "optimizer": recipe.transform.init(trainable),
  }


def init_state(recipe: Recipe) -> PyTree:
  """A new state, made by one compiled program where it will live."""

  def init():
    key = make_key(recipe.seed, 0, INIT)
    return make_state(recipe, joint.init_params(recipe.model, key))

  return jax.jit(init, out_shardings=state_shardings(recipe))()


def abstract_state(recipe: Recipe) -> PyTree:
  """The state's shapes with their shardings; allocates nothing."""
  shapes = jax.eval_shape(functools.partial(make_state, recipe), recipe.shapes)
  if recipe.layout.mesh is None:
    return shapes
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    shapes,
    state_shardings(recipe),
  )


def state_shardings(recipe: Recipe) -> PyTree | None:
  """Where each part of the state lives; None without a mesh."""
  layout = recipe.layout
  if layout.mesh is None:
    return None
  shapes = jax.eval_shape(functools.partial(make_state, recipe), recipe.shapes)
  shardings = jax.tree.map(lambda _: layout.sharding(), shapes)
  for half in ("trainable", "frozen", "ema"):
    shardings[half] = param_shardings(recipe, shapes[half])
  shardings["optimizer"] = optax.tree.map_params(
    recipe.transform, lambda _, s: s, shapes["optimizer"],
    shardings["trainable"], transform_non_params=lambda _: layout.sharding(),
  )  # fmt: skip
  return shardings


def param_shardings(recipe: Recipe, part: PyTree) -> PyTree:
  """The shardings of some of the parameters."""
  specs = trees.flatten(recipe.layout.param_specs(recipe.shapes))
  return trees.unflatten(
    {path: recipe.layout.sharding(*specs[path]) for path in trees.flatten(part)}
  )


def abstract_batch(recipe: Recipe, shapes: Mapping[str, tuple]) -> PyTree:
  """A batch as the loader gives it, as shapes with their shardings.

  shapes: of one sample's "video", "audio" and "text".
  """
  layout, b = recipe.layout, recipe.batch
  rows = functools.partial(jax.ShapeDtypeStruct, sharding=layout.rows())
  whole = functools.partial(jax.ShapeDtypeStruct, sharding=layout.sharding())
  half = {k: rows((b, *shape), jnp.float16) for k, shape in shapes.items()}
  flags = {f"has_{s}": rows((b,), jnp.bool_) for s in STREAMS}
  return half | flags | {"null_text": whole(shapes["text"], jnp.float32)}


def put_batch(
  recipe: Recipe, rows: Sequence[int], local: Mapping[str, Any]
) -> dict[str, Array]:
  """The global batch of which `local` are this host's rows."""
  layout = recipe.layout
  put = functools.partial(put_rows, layout, recipe.batch, rows)
  shared = local["null_text"]
  if layout.mesh is not None:
    shared = jax.make_array_from_callback(
      shared.shape, layout.sharding(), lambda index: shared[index]
    )
  return {k: put(v) for k, v in local.items() if k != "null_text"} | {
    "null_text": shared
  }


def flop_shape(recipe: Recipe, shapes: Mapping[str, Any]) -> flops.Shape:
  """What the FLOPs of a sample are counted from.

  shapes: of one sample's latents and text.
  """
  f, h, w, _ = shapes["video"]
  has_first = recipe.objective.first_frame_probability > 0
  return flops.Shape(
    f, h, w, shapes["text"][0], batch=recipe.batch // recipe.accumulate,
    times=f if has_first and "video" in recipe.streams else 1,
  )  # fmt: skip


def abstract_params(recipe: Recipe) -> PyTree:
  """The parameters' shapes with their shardings."""
  state = abstract_state(recipe)
  return trees.join(state["trainable"], state["frozen"])


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


def make_example(
  batch: Mapping[str, Any], key: Array, recipe: Recipe
) -> Example:
  """What the batch becomes; streams that the model lacks are left out."""
  absent = [s for s in STREAMS if s not in recipe.streams]
  batch = {k: v for k, v in batch.items() if k not in absent}
  return make_training_example(key, batch, recipe.objective)


def loss_and_metrics(
  params: PyTree, example: Example, recipe: Recipe
) -> tuple[Array, dict[str, dict[str, Array]]]:
  """The mixed-task loss of an example, and its sums and counts by task."""
  predicted = joint.velocity(
    recipe.graph, params, example.x_t, example.t, example.text, example.route
  )
  return loss(predicted, example, recipe.objective)


def gradients(
  state: PyTree, example: Example, recipe: Recipe
) -> tuple[tuple[Array, PyTree], PyTree]:
  """((loss, metrics), gradients), over parts of the batch one by one.

  The mean over equal parts is the mean over the batch.
  """

  def objective(trainable, example):
    params = trees.join(trainable, state["frozen"])
    return loss_and_metrics(params, example, recipe)

  count = recipe.accumulate
  take = functools.partial(
    jax.value_and_grad(objective, has_aux=True), state["trainable"]
  )
  if count == 1:
    return take(example)

  def add(total, part):
    return jax.tree.map(jnp.add, total, take(part)), None

  parts = split_rows(example, count, recipe.layout)
  first = jax.eval_shape(take, jax.tree.map(lambda x: x[0], parts))
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), first)
  ((value, metrics), grads), _ = jax.lax.scan(add, zeros, parts)
  mean = functools.partial(jax.tree.map, lambda x: x / count)
  return (mean(value), metrics), mean(grads)


def split_rows(example: Example, count: int, layout: Layout) -> Example:
  """(b, ...) -> (count, b / count, ...); a part takes rows of every shard."""
  shards = layout.batch_shards()

  def split(x):
    x = x.reshape(shards, count, -1, *x.shape[1:]).swapaxes(0, 1)
    return x.reshape(count, -1, *x.shape[3:])

  return jax.tree.map(split, example)


def train_step(
  state: PyTree, batch: Mapping[str, Any], recipe: Recipe
) -> tuple[PyTree, PyTree]:
  """One update. Returns the new state and scalar metrics.

  Where the loss or the gradient is not finite, only `step` and `skipped` move.

  Metrics are "loss", "grad_norm", "rate", "skipped" (in a row), and those of
  `objective.loss`: sums and counts, whose ratio is a mean.
  """
  key = make_key(recipe.seed, state["step"], TRAIN)
  example = make_example(batch, key, recipe)
  (value, metrics), grads = gradients(state, example, recipe)
  norm = optax.tree.norm(grads)
  is_finite = jnp.isfinite(value) & jnp.isfinite(norm)
  new = update(state, grads, recipe)
  new = jax.tree.map(lambda a, b: jnp.where(is_finite, a, b), new, state)
  new["step"] = state["step"] + 1
  new["skipped"] = jnp.where(is_finite, 0, state["skipped"] + 1)
  scalars = {
    "loss": value,
    "grad_norm": norm,
    "rate": recipe.schedule(state["step"]),
    "skipped": new["skipped"],
  }
  return new, metrics | scalars


def update(state: PyTree, grads: PyTree, recipe: Recipe) -> PyTree:
  """The state after an optimizer step with these gradients."""
  updates, optimizer = recipe.transform.update(
    grads, state["optimizer"], state["trainable"]
  )
  trainable = optax.apply_updates(state["trainable"], updates)
  average = state["ema"]
  if average:
    # Early on the average would remember the random start: grow the decay.
    decay = jnp.minimum(
      recipe.optimizer.ema, (1 + state["step"]) / (10 + state["step"])
    )
    average = optax.incremental_update(trainable, average, 1 - decay)
  return state | {
    "trainable": trainable, "ema": average, "optimizer": optimizer,
  }  # fmt: skip


def compile_step(recipe: Recipe):
  """`train_step` for one recipe, jitted, donating the state."""
  shardings = state_shardings(recipe)
  return jax.jit(
    functools.partial(train_step, recipe=recipe),
    donate_argnums=0,
    out_shardings=None if shardings is None else (shardings, None),
    compiler_options=dict(recipe.options),
  )

"""A config as the step wants it: all that is static, checked and built once.

Randomness in a step is

    key = fold_in(fold_in(key(seed), step), purpose)                       (1)

so that a step does not depend on what ran before it, and a run that is killed
and resumed equals one that never stopped.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import optax
from flax import nnx

from ccl_jax.array_types import STREAMS, Array, PyTree
from ccl_jax.config import build
from ccl_jax.cost import flops
from ccl_jax.diffusion.objective import Objective
from ccl_jax.models import joint
from ccl_jax.sharding import Layout, Rules, axes_of, make_layout
from ccl_jax.training import xla_options
from ccl_jax.training.optim import Optimizer

TRAIN, INIT, EVAL = range(3)  # purposes of eq. 1


@dataclasses.dataclass(frozen=True)
class TrainSetup:
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


def make_recipe(config: Mapping[str, Any], devices=None) -> TrainSetup:
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
  return TrainSetup(
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
    options=xla_options.options(config["xla"], layout.device.device_kind),
  )


def sampling_recipe(
  config: Mapping[str, Any], devices, mesh: Mapping[str, int] | None = None
) -> TrainSetup:
  """A run's recipe on devices to sample on, which its batch need not fit.

  Args:
    mesh: as `config.mesh`; None is of one device. Every shard of its `data` has
      all parameters for itself.
  """
  rules = config["sharding"]["params"]
  free = {
    "mesh": mesh or {},
    "sharding": config["sharding"] | {"params": _without_data(rules)},
    "batch": len(devices),
    "accumulate": 1,
  }
  return make_recipe(config | free, devices)


def _without_data(rules: Rules) -> Rules:
  return tuple(
    (regex, tuple(tuple(a for a in axes_of(x) if a != "data") for x in spec))
    for regex, spec in rules
  )


def make_key(seed: int, step: int | Array, purpose: int) -> Array:
  """Eq. 1."""
  return jax.random.fold_in(
    jax.random.fold_in(jax.random.key(seed), step), purpose
  )


def flop_shape(recipe: TrainSetup, shapes: Mapping[str, Any]) -> flops.Shape:
  """What the FLOPs of a sample are counted from.

  shapes: of one sample's latents and text.
  """
  f, h, w, _ = shapes["video"]
  has_first = recipe.objective.first_frame_probability > 0
  return flops.Shape(
    f, h, w, shapes["text"][0], batch=recipe.batch // recipe.accumulate,
    times=f if has_first and "video" in recipe.streams else 1,
  )  # fmt: skip

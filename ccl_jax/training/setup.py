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
  """All that is static in a step; made by `make_setup`.

  Attributes:
    model: the config's section.
    graph, shapes: the model's static half, its parameters' shapes.
    batch_size: samples in a step, of which 1 / grad_accumulation_steps go
      through the model at once.
    compiler_options: XLA's, for this chip.
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
  batch_size: int
  grad_accumulation_steps: int
  compiler_options: Mapping[str, Any]


def make_setup(config: Mapping[str, Any], devices=None) -> TrainSetup:
  """The setup of a config, for `devices` (all that this run has, if None).

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
  batch_size, parts = config["batch_size"], config["grad_accumulation_steps"]
  if parts < 1 or batch_size % (parts * layout.batch_shards()):
    raise ValueError(
      f"{batch_size=} cannot be grad_accumulation_steps={parts} parts, each over"
      f" {layout.batch_shards()} shards of the mesh: choose multiples."
    )
  return TrainSetup(
    model=config["model"],
    graph=graph,
    shapes=shapes,
    layout=layout,
    objective=build(Objective, config["objective"], "objective"),
    optimizer=optimizer,
    transform=optimizer.transform(trainable, config["num_train_steps"]),
    schedule=optimizer.make_schedule(config["num_train_steps"]),
    streams=tuple(s for s in STREAMS if s in shapes),
    seed=config["seed"],
    batch_size=batch_size,
    grad_accumulation_steps=parts,
    compiler_options=xla_options.options(
      config["xla_options"], layout.device.device_kind
    ),
  )


def sampling_setup(
  config: Mapping[str, Any], devices, mesh: Mapping[str, int] | None = None
) -> TrainSetup:
  """A run's setup on devices to sample on, which its batch need not fit.

  Args:
    mesh: as `config.mesh`; None is of one device. Every shard of its `data` has
      all parameters for itself.
  """
  rules = config["sharding"]["params"]
  free = {
    "mesh": mesh or {},
    "sharding": config["sharding"] | {"params": _without_data(rules)},
    "batch_size": len(devices),
    "grad_accumulation_steps": 1,
  }
  return make_setup(config | free, devices)


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


def flop_shape(setup: TrainSetup, shapes: Mapping[str, Any]) -> flops.Shape:
  """What the FLOPs of a sample are counted from.

  shapes: of one sample's latents and text.
  """
  f, h, w, _ = shapes["video"]
  has_first = setup.objective.first_frame_probability > 0
  return flops.Shape(
    f, h, w, shapes["text"][0], batch=setup.batch_size // setup.grad_accumulation_steps,
    times=f if has_first and "video" in setup.streams else 1,
  )  # fmt: skip

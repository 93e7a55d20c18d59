"""A config as the training step wants it: checked and built once.

Randomness in a step is

    key = fold_in(fold_in(key(seed), step), purpose)                       (1)

so that a step does not depend on what ran before it, and a run that is killed
and resumed equals one that never stopped.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import optax

from ccl_jax.array_types import Array
from ccl_jax.config import build
from ccl_jax.cost import flops
from ccl_jax.diffusion.objective import Objective
from ccl_jax.lora import LoRAConfig
from ccl_jax.models.plan import ModelPlan, make_plan
from ccl_jax.sharding import make_layout
from ccl_jax.training import xla_options
from ccl_jax.training.optim import Optimizer

TRAIN, INIT, DROPOUT, HELD_OUT = range(4)  # purposes of eq. 1


@dataclasses.dataclass(frozen=True)
class TrainSetup:
  """All that is static in a training step; made by `make_setup`.

  Attributes:
    plan: the model and where it lives.
    transform, schedule: the optimizer's gradient transformation and factor of
      the learning rates.
    batch_size: samples in a step, in `grad_accumulation_steps` equal parts.
    compiler_options: XLA's, for this chip.
  """

  plan: ModelPlan
  objective: Objective
  optimizer: Optimizer
  transform: optax.GradientTransformation
  schedule: optax.Schedule
  seed: int
  batch_size: int
  grad_accumulation_steps: int
  compiler_options: Mapping[str, Any]


def make_setup(
  config: Mapping[str, Any], devices: Sequence[Any] | None = None
) -> TrainSetup:
  """Builds the setup of a config.

  Args:
    devices: to train on; None takes all that this run has.

  Raises:
    ValueError: a section's key or value that is wrong, rules that do not fit,
      or a batch that the mesh and the accumulation do not divide.
  """
  layout = make_layout(config["mesh"], config["sharding"], devices)
  lora = build(LoRAConfig, config.get("lora", {}), "lora")
  plan = make_plan(config["model"], layout, lora)
  optimizer = build(Optimizer, config["optimizer"], "optimizer")
  rates = lora.rates(optimizer.learning_rates)
  optimizer = dataclasses.replace(optimizer, learning_rates=rates)
  trainable, _ = optimizer.split(plan.shapes)
  batch_size, parts = config["batch_size"], config["grad_accumulation_steps"]
  if parts < 1 or batch_size % (parts * layout.batch_shards()):
    raise ValueError(
      f"{batch_size=} cannot be grad_accumulation_steps={parts} parts, each"
      f" over {layout.batch_shards()} shards of the mesh: choose multiples."
    )
  return TrainSetup(
    plan=plan,
    objective=build(Objective, config["objective"], "objective"),
    optimizer=optimizer,
    transform=optimizer.transform(trainable, config["num_train_steps"]),
    schedule=optimizer.make_schedule(config["num_train_steps"]),
    seed=config["seed"],
    batch_size=batch_size,
    grad_accumulation_steps=parts,
    compiler_options=xla_options.compiler_options(
      config["xla_options"], layout.device.device_kind
    ),
  )


def make_key(seed: int, step: int | Array, purpose: int) -> Array:
  """Returns the key of eq. 1."""
  return jax.random.fold_in(
    jax.random.fold_in(jax.random.key(seed), step), purpose
  )


def flop_shape(setup: TrainSetup, shapes: Mapping[str, Any]) -> flops.Shape:
  """Returns the sizes that the FLOPs of a sample are counted from.

  Args:
    shapes: of one sample's latents and text.
  """
  f, h, w, _ = shapes["video"]
  has_first = setup.objective.first_frame_probability > 0
  return flops.Shape(
    f, h, w, shapes["text"][0],
    batch=setup.batch_size // setup.grad_accumulation_steps,
    times=f if has_first and "video" in setup.plan.streams else 1,
  )  # fmt: skip

"""Checks and builds once all parts of a config that a training step needs.

Randomness in a step is

    key = fold_in(fold_in(key(seed), step), purpose)                       (1)

so a step does not depend on earlier ones, and a run that is killed and resumed
equals one that never stopped.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import optax

from ccl_jax.array_types import Array
from ccl_jax.config import build, check_value
from ccl_jax.cost import flops
from ccl_jax.diffusion.objective import Objective
from ccl_jax.diffusion.tasks import TASKS
from ccl_jax.models.plan import ModelPlan, make_plan
from ccl_jax.params.lora import LoRAConfig
from ccl_jax.params.sharding import make_layout
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
    batch_size: samples in a step.
    grad_accumulation_steps: equal parts that a step's rows are taken in.
    compiler_options: XLA's, for this chip.

  Raises:
    ValueError: most rows of a step would be padding.
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

  def __post_init__(self):
    batch_size, parts = self.batch_size, self.grad_accumulation_steps
    shards = self.plan.layout.batch_shards()
    if batch_size < 1 or parts < 1 or parts * shards >= 2 * batch_size:
      raise ValueError(
        f"{batch_size=} cannot be grad_accumulation_steps={parts} parts, each"
        f" over {shards} shards of the mesh: more rows would be padding than"
        " samples. Choose fewer parts, or smaller config.mesh.data and fsdp."
      )

  @property
  def num_rows(self) -> int:
    """Returns the samples of a step and the padding that makes parts equal.

    Padded rows come last and have no loss: 320 samples on 128 shards are 3
    parts of 128 rows, 64 of them padding.
    """
    part = self.grad_accumulation_steps * self.plan.layout.batch_shards()
    return self.batch_size + -self.batch_size % part


def make_setup(
  config: Mapping[str, Any], devices: Sequence[Any] | None = None
) -> TrainSetup:
  """Builds the setup of a config.

  Args:
    devices: to train on; None takes all that this run has.

  Raises:
    ValueError: a section's key or value that is wrong, rules that do not fit,
      or a batch that would be smaller than its padding.
  """
  num = config["num_train_steps"]
  check_value("num_train_steps", num, num > 0, "1 or more")
  layout = make_layout(config["mesh"], config["sharding"], devices)
  lora = build(LoRAConfig, config.get("lora", {}), "lora")
  plan = make_plan(config["model"], layout, lora)
  optimizer = build(Optimizer, config["optimizer"], "optimizer")
  rates = lora.rates(optimizer.learning_rates)
  optimizer = dataclasses.replace(optimizer, learning_rates=rates)
  trainable, _ = optimizer.split(plan.shapes)
  setup = TrainSetup(
    plan=plan,
    objective=build(Objective, config["objective"], "objective"),
    optimizer=optimizer,
    transform=optimizer.transform(trainable, num),
    schedule=optimizer.make_schedule(num),
    seed=config["seed"],
    batch_size=config["batch_size"],
    grad_accumulation_steps=config["grad_accumulation_steps"],
    compiler_options=xla_options.compiler_options(
      config["xla_options"], layout.device.device_kind
    ),
  )
  _check_conditions(setup.objective, plan.conditions)
  if setup.objective.reference_probability and not plan.reads_references:
    raise ValueError(
      f"objective.reference_probability={setup.objective.reference_probability}"
      " gives samples a reference picture, and this model reads none: expected"
      " model.fusion.references=True, or 0."
    )
  return setup


def _check_conditions(objective: Objective, given: tuple[str, ...]) -> None:
  """Raises ValueError if a task generates a stream that is only a condition.

  It may have noise where no stream reads it, and no loss.
  """
  for task, probability in zip(TASKS, objective.probabilities, strict=True):
    for s in set(given) & set(task.generated):
      if probability and (task.sees_other or objective.weight(s)):
        raise ValueError(
          f"objective.probabilities trains '{task.name}', which generates {s},"
          f" but model.{s}.in_context only takes it as a condition: expected 0"
          f" for all but apart and a2v, and objective.{s}_weight=0."
        )


def make_key(seed: int, step: int | Array, purpose: int) -> Array:
  """Returns the key of eq. 1."""
  return jax.random.fold_in(
    jax.random.fold_in(jax.random.key(seed), step), purpose
  )


def flop_shape(setup: TrainSetup, shapes: Mapping[str, Any]) -> flops.Shape:
  """Returns the sizes that FLOPs are counted from, by a sample's shapes."""
  f, h, w, _ = shapes["video"]
  has_first = setup.objective.first_frame_probability > 0
  pictures = int(setup.objective.reference_probability > 0)
  has_times = "video" in setup.plan.streams and (has_first or pictures)
  return flops.Shape(
    f, h, w, shapes["text"][0],
    batch=setup.num_rows // setup.grad_accumulation_steps,
    times=f + pictures if has_times else 1, pictures=pictures,
  )  # fmt: skip

"""A plan of the model: all that is known before its arrays exist.

It suffices for generation, for export and for compiling a sampler. Training
adds an objective and an optimizer (`training.setup`).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx

from ccl_jax.array_types import STREAMS, PyTree
from ccl_jax.models import functional
from ccl_jax.params import trees
from ccl_jax.params.lora import LoRAConfig
from ccl_jax.params.param_names import is_kernel, is_time_embedding
from ccl_jax.params.sharding import Layout, make_layout, without_axis


@dataclasses.dataclass(frozen=True)
class ModelPlan:
  """A model without its parameters; made by `make_plan`.

  Attributes:
    settings: the `model` section of a config.
    graph: static half of the model.
    shapes: nested dict of the parameters' shapes and dtypes.
    layout: mesh and sharding rules.
    lora: the LoRA that is trained in place of some kernels.
  """

  settings: Mapping[str, Any]
  graph: nnx.GraphDef
  shapes: PyTree
  layout: Layout
  lora: LoRAConfig = functional.NO_LORA

  @property
  def streams(self) -> tuple[str, ...]:
    """Returns the streams that the model has."""
    return tuple(s for s in STREAMS if s in self.shapes)

  @property
  def conditions(self) -> tuple[str, ...]:
    """Returns the streams that are only given, in context."""
    sections = {s: self.settings.get(s) or {} for s in STREAMS}
    return tuple(s for s in STREAMS if sections[s].get("in_context"))

  @property
  def num_layers(self) -> int:
    """Returns the number of blocks of each stream."""
    return self.settings["num_layers"]

  @property
  def image_conditioning(self) -> dict[str, bool]:
    """Returns which parts of an `Image` the model reads."""
    video = self.settings.get("video") or {}
    return {
      "latents": bool(video.get("condition_channels")),
      "tokens": bool(video.get("image_width")),
    }

  @property
  def reads_references(self) -> bool:
    """Returns whether the model reads reference pictures."""
    return bool(self.settings["fusion"].get("references"))

  def compute_dtype(self, path: str) -> jnp.dtype:
    """Returns the dtype that a parameter is used in."""
    is_cast = is_kernel(path) and not is_time_embedding(path)
    return jnp.dtype(self.settings["dtype"] if is_cast else jnp.float32)

  def shardings(self, part: PyTree) -> PyTree:
    """Returns the shardings of some of the parameters; a mesh is needed."""
    specs = trees.flatten(self.layout.param_specs(self.shapes))
    return trees.unflatten(
      {path: self.layout.sharding(*specs[path]) for path in trees.flatten(part)}
    )


def make_plan(
  settings: Mapping[str, Any],
  layout: Layout,
  lora: LoRAConfig = functional.NO_LORA,
) -> ModelPlan:
  """Plans a model on a layout; allocates nothing.

  Raises:
    ValueError: a key or value of `settings` that is wrong, or rules of sharding
      or LoRA that do not fit the parameters.
  """
  graph, shapes = functional.describe(settings, layout, lora)
  if layout.mesh is not None:
    layout.param_specs(shapes)
  return ModelPlan(settings, graph, shapes, layout, lora)


def make_sampling_plan(
  config: Mapping[str, Any],
  devices: Sequence[Any],
  mesh: Mapping[str, int] | None = None,
) -> ModelPlan:
  """Plans a run's model on devices to sample on.

  Reads only the sections `model` and `sharding` of the run's config, so the
  pod, optimizer and objective that it was trained with do not matter.

  Args:
    config: of the run.
    mesh: arguments of `sharding.make_mesh`; None is one device. Each shard of
      its `data` axis holds all parameters.
  """
  rules = config["sharding"]["params"]
  sharding = config["sharding"] | {"params": without_axis(rules, "data")}
  return make_plan(config["model"], make_layout(mesh or {}, sharding, devices))


def sampling_params(plan: ModelPlan) -> PyTree:
  """Returns the parameters' shapes with kernels in the compute dtype.

  In bfloat16 this halves the memory and gives the same results, bit for bit.
  """
  leaves = trees.flatten(plan.layout.with_shardings(plan.shapes))
  return trees.unflatten(
    {p: x.update(dtype=plan.compute_dtype(p)) for p, x in leaves.items()}
  )

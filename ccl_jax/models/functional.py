"""The joint model as functions of its parameters; callers see no Flax."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
from flax import nnx

from ccl_jax.array_types import Array, Float, Image, PyTree, Route, State
from ccl_jax.config import build
from ccl_jax.models.fusion import NO_CACHE, KVCache
from ccl_jax.models.joint import Joint
from ccl_jax.models.layers import add_lora
from ccl_jax.params import trees
from ccl_jax.params.lora import LoRAConfig
from ccl_jax.params.param_names import is_stacked
from ccl_jax.params.sharding import ONE_DEVICE, Layout
from ccl_jax.params.weight_gathering import gather

NO_LORA = LoRAConfig()


def make_joint(
  settings: Mapping,
  key: Array,
  layout: Layout = ONE_DEVICE,
  lora: LoRAConfig = NO_LORA,
) -> Joint:
  """Makes a `Joint` from the `model` section of a config.

  A LoRA changes none of the other parameters, nor at first what it computes.
  """
  rngs = nnx.Rngs(key)
  model = build(Joint, settings, "model", rngs=rngs, layout=layout)
  add_lora(model, lora, rngs)
  return model


def describe(
  settings: Mapping, layout: Layout = ONE_DEVICE, lora: LoRAConfig = NO_LORA
) -> tuple[nnx.GraphDef, PyTree]:
  """Returns the model's static half and its parameters' shapes.

  Allocates nothing.
  """

  def make(key):
    graph, params = nnx.split(make_joint(settings, key, layout, lora))
    return graph, nnx.to_pure_dict(params)

  return jax.eval_shape(make, jax.random.key(0))


def init_params(
  settings: Mapping, key: Array, lora: LoRAConfig = NO_LORA
) -> PyTree:
  """Returns random parameters as a nested dict of arrays."""
  return nnx.to_pure_dict(nnx.split(make_joint(settings, key, lora=lora))[1])


def velocity(
  graph: nnx.GraphDef,
  params: PyTree,
  state: State,
  t: dict[str, Array],
  text: Float[Array, "b l d"],
  route: Route,
  image: Image | None = None,
  cache: KVCache = NO_CACHE,
) -> State:
  """Runs the model with these parameters; see `Joint.__call__`."""
  return bind(graph, params)(state, t, text, route, image, cache)


def make_kv_cache(
  graph: nnx.GraphDef,
  params: PyTree,
  runs: Sequence[tuple[State, Float[Array, "b l d"]]],
  route: Route,
) -> KVCache:
  """Computes the keys and values of context tokens and reference streams.

  Args:
    runs: (latents of the references, text) of each run.
  """
  model = bind(graph, params)
  cache = KVCache(model.context_kv())
  kept = tuple(model.reference_kv(*run, route, cache) for run in runs)
  return dataclasses.replace(cache, runs=kept)


def bind(graph: nnx.GraphDef, params: PyTree) -> Joint:
  """Returns the model with these parameters.

  Those outside of the layers are gathered; a layer gathers its own.
  """
  model = nnx.merge(graph, params)
  leaves = trees.flatten(params).items()
  outer = trees.unflatten({p: x for p, x in leaves if not is_stacked(p)})
  nnx.update(model, gather(model.attention.layout, outer, prefix=""))
  return model

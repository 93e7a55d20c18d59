"""LoRA: what it computes, what it trains and costs, and what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from ccl_jax.checkpoints import manager, restore
from ccl_jax.models import functional, layers
from ccl_jax.params import lora, sharding, trees
from ccl_jax.params.lora import LoRAConfig
from ccl_jax.params.sharding import AXES
from ccl_jax.training import step
from ccl_jax.training.batch import put_batch
from ccl_jax.training.state import abstract_state, make_state
from configs.lora import get_config
from tests.models import tiny
from tests.params import sharded
from tests.training import setups
from tests.training.step_test import batch, equal

RULES = (("(video|audio)/.*/kernel", 2), ("fusion/.*/kernel", 3))
CCA = {
  "rules": (("fusion/.*/kernel", 3),),
  "train_also": ("fusion/.*/context",),
}
SHAPES = {
  "video/blocks/ffn/up/kernel": (2, 24, 32),
  "video/blocks/ffn/up/bias": (2, 32),
  "video/head_modulation": (2, 24),
  "audio/embed/kernel": (2, 12),
}
KERNELS = [path for path in SHAPES if path.endswith("/kernel")]


@functools.cache
def model(config=functional.NO_LORA):
  """(function of parameters, their shapes)."""
  graph, shapes = functional.describe(tiny.SETTINGS, lora=config)
  run = functools.partial(functional.velocity, graph)
  return jax.jit(lambda params: run(params, *tiny.inputs())), shapes


def test_every_linear_layer_can_have_one_and_b_0_changes_nothing():
  run, shapes = model(LoRAConfig(RULES))
  params = tiny.randomize(shapes)
  leaves = trees.flatten(params)
  kernels = {path for path in leaves if path.endswith("/kernel")}
  bases = {base for path in kernels if (base := lora.base_of(path))}
  assert bases == {path for path in kernels if not lora.base_of(path)}
  zero = {p: 0 * x if "/lora/b/" in p else x for p, x in leaves.items()}
  base = model()[0](lora.without(params))
  assert equal(run(trees.unflatten(zero)), base)
  # Where A and B are not zero: at run time as in one matrix.
  added = run(params)
  assert not equal(added, base)
  folded = restore.fold_lora(leaves, lora.pairs(leaves, 16.0))
  merged = model()[0](lora.without(trees.unflatten(folded)))
  for s, x in added.items():
    scale = np.abs(x).max()
    np.testing.assert_allclose(merged[s], x, rtol=0, atol=2e-5 * scale)


@functools.cache
def setup():
  return setups.make_setup(lora=CCA, optimizer={"frozen_dtype": "compute"})


@functools.cache
def compiled():
  return jax.jit(functools.partial(step.train_step, setup=setup()))


def run(state, steps):
  for i in steps:
    with jax.numpy_dtype_promotion("standard"):  # optax needs it
      state, _ = compiled()(state, batch(i))
  return state


def test_only_the_lora_is_trained_and_has_state(tmp_path):
  """Also bit for bit after a stop, and the streams are what they were."""
  first = make_state(setup(), tiny.randomize(setup().plan.shapes))
  last = run(first, range(4))
  assert equal(last["frozen"], first["frozen"])
  assert {"video", "audio"} <= set(last["frozen"])
  trained = trees.flatten(last["trainable"])
  assert {p for p in trained if not lora.base_of(p)} == {
    "fusion/video/context", "fusion/audio/context",
  }  # fmt: skip
  for path, x in trees.flatten(first["trainable"]).items():
    assert not np.array_equal(trained[path], x), path
  # Two moments and the average of what is trained, 4 bytes each, and counts.
  values = sum(x.size for x in trained.values())
  size = lambda tree: sum(x.nbytes for x in jax.tree.leaves(tree))  # noqa: E731
  assert size(last["optimizer"]) == 2 * 4 * values + 2 * 4
  assert size(last["ema"]) == 4 * values
  saved = manager.CheckpointManager(tmp_path)
  saved.save(2, run(first, range(2)))
  saved.close()
  saved = manager.CheckpointManager(tmp_path)
  state, _ = saved.restore_latest(abstract_state(setup()))
  saved.close()
  assert equal(run(state, range(2, 4)), last)


def test_a_mesh_changes_nothing_but_rounding():
  """Over samples, frames and channels at once, and recomputed."""
  config = {"rules": (("(.*/blocks|fusion)/.*/kernel", 4),)}
  found = []
  for sizes, devices in (((1, 2, 2, 2), 8), ((1, 1, 1, 1), 1)):
    s = setups.make_setup(
      jax.devices()[:devices], model=sharded.MODEL, lora=config,
      mesh=dict(zip(AXES, sizes, strict=True)),
      sharding=sharded.SMALL,
    )  # fmt: skip
    params = tiny.randomize(s.plan.shapes)
    if s.plan.layout.mesh is not None:
      params = jax.device_put(params, s.plan.shardings(params))
    trainable, frozen = s.optimizer.split(params)

    @jax.jit
    def take(trainable, frozen, batch, s=s):
      example = step.make_example(batch, jax.random.key(0), s)
      return step.gradients(
        {"trainable": trainable, "frozen": frozen}, example, s
      )[1]

    given = put_batch(s, sharded.batch())
    found.append(trees.flatten(jax.device_get(take(trainable, frozen, given))))
  assert found[0].keys() == found[1].keys()
  for path, g in found[1].items():
    atol = 2e-5 * np.abs(g).max()
    assert lora.base_of(path) and atol > 0, path
    np.testing.assert_allclose(found[0][path], g, rtol=0, atol=atol)


def test_a_full_rank_reaches_the_loss_of_training_the_matrix():
  """A toy: a frozen layer and its LoRA, against the same layer trained."""
  d, steps = 6, 600
  x, target, noise = jax.random.normal(jax.random.key(0), (3, 64, d))
  y = x @ target[:d] + 0.1 * noise
  layer = layers.linear(d, d, rngs=nnx.Rngs(0), dtype=jnp.float32)
  graph, full = nnx.split(layer)
  config = LoRAConfig((("kernel", d),), alpha=float(d))
  layers.add_lora(layer, config, nnx.Rngs(1))
  with_lora, params = nnx.split(layer)
  params = nnx.to_pure_dict(params)

  def train(loss, params):
    transform = optax.adam(0.03)

    def step(carry, _):
      params, state = carry
      updates, state = transform.update(jax.grad(loss)(params), state, params)
      return (optax.apply_updates(params, updates), state), None

    carry = params, transform.init(params)
    with jax.numpy_dtype_promotion("standard"):  # optax needs it
      (params, _), _ = jax.lax.scan(step, carry, length=steps)
    return float(loss(params))

  def loss_of(graph, params):
    return jnp.mean((nnx.merge(graph, params)(x) - y) ** 2)

  def lora_alone(factors):
    # The bias is trained as well: a LoRA has none.
    return loss_of(with_lora, {"kernel": params["kernel"]} | factors)

  best = train(functools.partial(loss_of, graph), nnx.to_pure_dict(full))
  found = train(lora_alone, {k: params[k] for k in ("bias", "lora")})
  low = {"rules": (("kernel", 1),), "alpha": 1.0}
  narrow = layers.linear(d, d, rngs=nnx.Rngs(0), dtype=jnp.float32)
  layers.add_lora(narrow, LoRAConfig(**low), nnx.Rngs(1))
  with_lora, params = nnx.split(narrow)
  params = nnx.to_pure_dict(params)
  too_low = train(lora_alone, {k: params[k] for k in ("bias", "lora")})
  assert best < 0.011 < 10 * 0.011 < too_low
  assert found < 1.01 * best


def test_a_folded_kernel_keeps_its_dtype():
  rng = np.random.default_rng(0)
  w, a, b = (rng.normal(size=s) for s in ((2, 6, 5), (2, 6, 3), (2, 3, 5)))
  expected = w + 0.5 * np.einsum("lir,lro->lio", a, b)
  for dtype, rtol in ((jnp.float32, 1e-6), (jnp.bfloat16, 2**-8)):
    made = lora.fold(*(jnp.asarray(x, jnp.float32) for x in (w, a, b)), 0.5)
    cast = lora.fold(
      jnp.asarray(w, dtype), *(jnp.asarray(x, jnp.float32) for x in (a, b)), 0.5
    )
    assert cast.dtype == dtype
    np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
      cast.astype(jnp.float32), expected, rtol=2 * rtol, atol=4 * rtol
    )


def test_dropout_leaves_out_channels_and_keeps_the_mean():
  a, b = jnp.ones((2, 1000, 3)), jnp.ones((2, 3, 4))
  params = {"x": {"lora": {"a": {"kernel": a}, "b": {"kernel": b}}}}
  dropped = trees.flatten(lora.drop(params, jax.random.key(0), 0.25))
  found = np.asarray(dropped["x/lora/a/kernel"])
  assert set(np.unique(found)) == {0.0, np.float32(1 / 0.75)}
  assert np.all(found == found[..., :1])
  assert abs(found.mean() - 1) < 0.05
  assert np.array_equal(dropped["x/lora/b/kernel"], b)


@pytest.mark.parametrize(
  ("config", "words"),
  [
    ({"rules": (("video/blok.*", 2),)}, "'video/blok.*' matches no parameter"),
    ({"rules": (("video/blocks/.*", 2),)}, "ffn/up/bias', which is not the"),
    ({"rules": (("video/head_modulation", 2),)}, "is not the kernel"),
    (
      {"rules": ((".*/kernel", 1), ("audio/.*/kernel", 2))},
      "one rule for each",
    ),
    ({"rules": (("audio/.*/kernel", 0),)}, "expected 1 to 2"),
    ({"rules": (("audio/.*/kernel", 3),)}, "expected 1 to 2"),
    ({"rules": (("audio/(/kernel", 2),)}, "is no regex"),
    ({"rules": (), "train_also": ("fusion/.*",)}, "without lora.rules"),
    (
      {"rules": (("audio/.*/kernel", 2),), "train_also": ("fusion/x",)},
      "train_also: 'fusion/x'",
    ),
    (
      {"rules": (("audio/.*/kernel", 2),), "train_also": ("audio/.*",)},
      "one of the two",
    ),
    ({"alpha": float("nan")}, "lora.alpha is nan"),
    ({"alpha": float("inf")}, "lora.alpha is inf"),
    ({"dropout": 1.0}, "lora.dropout is 1.0"),
    ({"dropout": float("nan")}, "lora.dropout is nan"),
  ],
)
def test_what_does_not_fit_is_one_clear_error(config, words):
  with pytest.raises(ValueError) as error:
    LoRAConfig(**config).ranks(SHAPES, KERNELS)
  assert words in str(error.value)


def test_an_unknown_target_is_named():
  with pytest.raises(ValueError, match="target='speech': expected all, audio"):
    get_config("size=tiny,target=speech")


@pytest.mark.parametrize("size", ["14b", "1.3b", "tiny"])
@pytest.mark.parametrize("target", ["all", "audio", "cca"])
def test_configs_train_what_they_say(size, target):
  c = get_config(f"size={size},target={target}").to_dict()
  mesh = sharding.make_mesh(jax.devices(), data=2, fsdp=4)
  layout = sharding.Layout(mesh, **c["sharding"])
  config = LoRAConfig(**c["lora"])
  _, shapes = functional.describe(c["model"], lora=config)
  specs = trees.flatten(layout.param_specs(shapes))
  q = "fusion/video/attention/q/lora"
  if target != "audio":
    assert specs[f"{q}/a/kernel"] == (None, ("fsdp", "data"), None)
    assert specs[f"{q}/b/kernel"] == (None, None, ("fsdp", "data", "tensor"))
  layout.param_specs(lora.without(shapes))  # to sample from it
  rates = trees.match(config.rates(c["optimizer"]["learning_rates"]), shapes)
  trained = {p for p, rate in trees.flatten(rates).items() if rate}
  parts = {
    "all": {"video", "audio", "fusion"}, "audio": {"audio"}, "cca": {"fusion"}
  }  # fmt: skip
  assert {path.split("/")[0] for path in trained} == parts[target]
  assert all(lora.base_of(p) or p.endswith("/context") for p in trained)

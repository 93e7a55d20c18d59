"""Mesh and rules; and a sharded step equals the one of a single device."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.cost import hlo
from ccl_jax.cost.collectives import collectives
from ccl_jax.models import functional
from ccl_jax.params import batch_rows, sharding, trees
from ccl_jax.params.sharding import AXES, Layout, make_mesh
from ccl_jax.training import step
from ccl_jax.training.batch import abstract_batch, local_samples, put_batch
from ccl_jax.training.setup import make_key
from ccl_jax.training.state import abstract_state
from configs.ccl import get_config
from tests.models import tiny
from tests.params.sharded import FRAMES, MODEL, SMALL, batch
from tests.training import setups


def gradients(sizes, devices, b=8, **options):
  """(loss, gradients by path) of random parameters, on a mesh."""
  self_attention = options.pop("self_attention", "gather")
  rules = {}
  if over := options.pop("fsdp_over", ""):
    rules["params"] = get_config(f"size=tiny,fsdp_over={over}").sharding.params
  audio = MODEL["audio"] | {"tokens_per_frame": options.pop("c", 2)}
  setup = setups.make_setup(
    devices,
    model=MODEL | {"audio": audio},
    mesh=dict(zip(AXES, sizes, strict=True)),
    sharding=SMALL | {"self_attention": self_attention} | rules,
    objective={"first_frame_probability": 0.5},
    batch_size=b,
    **options,
  )
  params = tiny.randomize(setup.plan.shapes)
  if setup.plan.layout.mesh is not None:
    params = jax.device_put(params, setup.plan.shardings(setup.plan.shapes))
  samples = local_samples(setup)
  local = batch(b)
  local |= {k: v[samples] for k, v in local.items() if k != "null_text"}

  @jax.jit
  def take(params, batch):
    example = step.make_example(batch, make_key(0, 0, 0), setup)
    state = {"trainable": params, "frozen": {}}
    return step.gradients(state, example, setup)

  (value, metrics), grads = take(params, put_batch(setup, local))
  return float(value), trees.flatten(jax.device_get(grads)), metrics


@functools.cache
def single(**options):
  return gradients((1, 1, 1, 1), jax.devices()[:1], **options)


@pytest.mark.parametrize(
  ("sizes", "options"),
  [
    ((8, 1, 1, 1), {}),
    ((1, 8, 1, 1), {}),
    ((1, 2, 4, 1), {}),
    ((1, 2, 4, 1), {"self_attention": "ulysses"}),
    ((2, 1, 2, 2), {"grad_accumulation_steps": 2}),
    ((2, 1, 2, 2), {"grad_accumulation_steps": 3}),  # 4 of 12 rows are padding
    ((2, 2, 2, 1), {"grad_accumulation_steps": 2, "fsdp_over": "slice"}),
    # 7 of 16 rows are padding, and each copy of the parameters has 8 rows.
    (
      (2, 2, 2, 1),
      {"b": 9, "grad_accumulation_steps": 2, "fsdp_over": "slice"},
    ),
    ((1, 2, 4, 1), {"fsdp_over": "context"}),
    ((1, 2, 4, 1), {"c": 2.1}),  # as many latents, on more tokens
  ],
  ids=str,
)
def test_a_mesh_changes_nothing_but_rounding(sizes, options):
  value, grads, metrics = gradients(sizes, jax.devices(), **options)
  kind = {name: options[name] for name in options if name in ("b", "c")}
  expected, single_grads, single_metrics = single(**kind)
  assert abs(value - expected) < 1e-6 * expected
  for path, g in single_grads.items():
    scale = np.abs(g).max()
    np.testing.assert_allclose(
      grads[path], g, rtol=0, atol=2e-5 * scale, err_msg=path
    )
  for a, b in zip(
    jax.tree.leaves(metrics), jax.tree.leaves(single_metrics), strict=True
  ):
    np.testing.assert_allclose(a, b, rtol=1e-5)


def test_copies_reduce_their_gradients_once_a_step():
  rules = get_config("size=tiny,fsdp_over=slice").sharding.params
  setup = setups.make_setup(
    jax.devices(), model=MODEL, mesh={"data": 2, "fsdp": 4},
    sharding=SMALL | {"params": rules}, grad_accumulation_steps=2,
    batch_size=16,
  )  # fmt: skip
  shapes = {"video": (FRAMES, 4, 4, 3), "audio": (FRAMES * 2, 2)}
  rows = abstract_batch(setup, shapes | {"text": (5, 8)})

  @jax.jit
  def take(params, batch):
    example = step.make_example(batch, make_key(0, 0, 0), setup)
    state = {"trainable": params, "frozen": {}}
    return step.gradients(state, example, setup)

  params = setup.plan.layout.with_shardings(setup.plan.shapes)
  text = take.lower(params, rows).compile().as_text()
  found = collectives(hlo.parse(text), dict(setup.plan.layout.mesh.shape))
  over_data = [c for c in found if "data" in c.axes]
  assert {c.loop for c in over_data} == {None}
  # All that one device has of the gradients, and a few metrics.
  of_device = sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    for x in jax.tree.leaves(params)
  )
  reduced = sum(c.result * c.count for c in over_data)
  assert of_device <= reduced <= of_device + 1024


def test_accumulation_equals_the_big_batch():
  value, grads, _ = gradients(
    (1, 1, 1, 1), jax.devices()[:1], grad_accumulation_steps=4
  )
  expected, single_grads, _ = single()
  assert abs(value - expected) < 1e-6 * expected
  for path, g in single_grads.items():
    atol = 1e-5 * np.abs(g).max()
    np.testing.assert_allclose(grads[path], g, rtol=0, atol=atol, err_msg=path)


def test_the_rest_goes_to_the_axis_that_asks():
  mesh = make_mesh(jax.devices(), data=2, context=2)
  assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "context": 2, "tensor": 1}
  assert set(mesh.axis_types) == {jax.sharding.AxisType.Auto}


@pytest.mark.parametrize(
  "sizes",
  [{"data": 3}, {"fsdp": -1, "data": -1}, {"fsdp": 4}, {"fsdp": 0}],
)
def test_sizes_that_do_not_fit_are_an_error(sizes):
  with pytest.raises(ValueError, match="mesh"):
    make_mesh(jax.devices(), **sizes)


def test_data_runs_between_slices():
  with pytest.raises(ValueError, match="data a multiple of the slices"):
    make_mesh(jax.devices(), data=1, num_slices=2)
  with pytest.raises(ValueError, match="num_slices=0: expected at least 1"):
    make_mesh(jax.devices(), num_slices=0)


RULES = ((".*/kernel", ("fsdp",)), (".*", ()))
SHAPES = {
  "a": {
    "kernel": jax.ShapeDtypeStruct((16, 4), jnp.float32),
    "bias": jax.ShapeDtypeStruct((1,), jnp.float32),
  }
}


def layout(params=RULES, **options):
  return Layout(make_mesh(jax.devices()), params, **options)


@pytest.mark.parametrize(
  ("rules", "words"),
  [
    ((("b/.*", ()),), "a/kernel.*'b/"),
    ((*RULES, ("c", ())), "'c'"),
    (((".*/kernel", (None, "fsdp")), (".*", ())), "4 cannot be split"),
    (((".*/bias", ("fsdp",)), (".*", ())), "1 cannot be split"),
    (((".*", ()), ("a/kernel", ())), None),
  ],
)
def test_rules_that_do_not_fit_are_named(rules, words):
  if words is None:  # Nothing is split, and nothing was asked to be.
    assert layout(rules).param_specs(SHAPES)["a"]["kernel"] == ()
    return
  with pytest.raises(ValueError, match=words):
    layout(rules).param_specs(SHAPES)


@pytest.mark.parametrize("name", ["params", "activations"])
@pytest.mark.parametrize(
  "rules, words",
  [
    (3, "expected pairs"),
    (("a",), "expected pairs"),
    (((".*", "fsdp"),), "expected pairs"),
    ((("(", ()),), "is no regex"),
    (((".*", (3,)),), "expected an axis"),
    (((".*", ("rows",)),), "expected each of"),
  ],
)
def test_what_are_no_rules_is_named_on_one_device_too(name, rules, words):
  with pytest.raises(ValueError, match=words) as caught:
    sharding.make_layout({}, {name: rules}, jax.devices()[:1])
  assert "\n" not in str(caught.value)


def test_too_much_on_every_device_is_an_error():
  rules = (("a/bias", ()), ("a/kernel", ()), ("b", ("fsdp",)))
  shapes = SHAPES | {"b": jax.ShapeDtypeStruct((64,), jnp.float32)}
  with pytest.raises(ValueError, match=r"50\.\d% .*a/kernel, a/bias"):
    layout(rules).param_specs(shapes)


def test_an_axis_twice_or_unknown_is_an_error():
  for spec in (("fsdp", "fsdp"), ("fsdp", ("data", "fsdp")), ("model",)):
    with pytest.raises(ValueError, match="at most once"):
      layout(((".*", spec),))


def test_activations_and_their_rules_match():
  with pytest.raises(ValueError, match="audio/heads"):
    layout(activations=(("video/.*", ()), ("batch", ()))).spec("batch")
  rules = ((".*", ()), ("latents", ()))
  with pytest.raises(ValueError, match="latents"):
    layout(activations=rules).spec("batch")


def test_rows_of_a_host_are_those_of_its_devices():
  rules = get_config("size=tiny").sharding.activations
  mesh = make_mesh(jax.devices(), data=2, fsdp=2, context=2)
  placed = Layout(mesh, (), rules)
  assert batch_rows.local_rows(placed, 8) == list(range(8))
  array = np.arange(16.0).reshape(8, 2)
  put = batch_rows.put_rows(placed, 8, range(8), array)
  np.testing.assert_array_equal(put, array)
  assert {s.data.shape for s in put.addressable_shards} == {(2, 2)}


@pytest.mark.parametrize("size", ["14b", "1.3b", "tiny"])
@pytest.mark.parametrize("stage", ["joint", "audio", "video"])
def test_every_config_has_rules_that_fit(size, stage):
  config = get_config(f"size={size},stage={stage}")
  mesh = make_mesh(jax.devices(), data=2, fsdp=2, tensor=2)
  placed = Layout(mesh, **config.sharding.to_dict())
  _, shapes = functional.describe(config.model.to_dict())
  specs = trees.flatten(placed.param_specs(shapes))
  assert any("tensor" in sharding.axes_of(spec) for spec in specs.values())


def test_heads_that_the_mesh_does_not_divide_are_named():
  model = MODEL | {"video": MODEL["video"] | {"heads": 2}}
  setup = setups.make_setup(
    jax.devices(),
    model=model,
    mesh=dict(zip(AXES, (1, 2, 4, 1), strict=True)),
    sharding=SMALL | {"self_attention": "ulysses"},
  )
  given = put_batch(setup, batch())
  with pytest.raises(ValueError, match="video: 2 heads"):
    jax.eval_shape(
      functools.partial(step.train_step, setup=setup),
      abstract_state(setup),
      given,
    )

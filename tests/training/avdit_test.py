"""A frozen image model in training: what moves, and what is refused."""

import functools

import jax
import numpy as np
import pytest

from ccl_jax.params import trees
from ccl_jax.training import step
from ccl_jax.training.batch import put_batch
from ccl_jax.training.setup import make_key, make_setup
from ccl_jax.training.state import (
  describe_trainable,
  init_state,
  replace_params,
  state_params,
)
from configs.avdit import CHOICES, get_config
from tests.models import tiny
from tests.models.avdit_test import VIDEO, settings
from tests.training import setups
from tests.training.step_test import batch

pytestmark = pytest.mark.usefixtures("standard_promotion")


def setup(devices=None, **sections):
  c = get_config("size=tiny").to_dict()
  return setups.make_setup(
    devices,
    objective=c["objective"],
    optimizer={"learning_rates": c["optimizer"]["learning_rates"]},
    **{"model": settings()} | sections,
  )


def test_nothing_of_the_image_model_learns_or_has_state():
  s = setup()
  state = init_state(s)
  image = tiny.randomize(s.plan.shapes["video"])
  image = {f"video/{path}": x for path, x in trees.flatten(image).items()}
  state = replace_params(state, image)
  before = jax.device_get(trees.flatten(state_params(state)))
  for part in ("trainable", "ema"):
    assert not any(p.startswith("video/") for p in trees.flatten(state[part]))
  moments = [x.shape for x in jax.tree.leaves(state["optimizer"]) if x.ndim]
  learns = [x.shape for x in jax.tree.leaves(state["trainable"])]
  assert sorted(moments) == sorted(2 * learns)
  example = jax.eval_shape(
    lambda b: step.make_example(b, make_key(0, 0, 0), s), batch(0)
  )
  _, grads = jax.eval_shape(
    lambda state, e: step.gradients(state, e, s), state, example
  )
  assert trees.flatten(grads).keys() == trees.flatten(state["trainable"]).keys()
  run = jax.jit(functools.partial(step.train_step, setup=s))
  for i in range(4):
    state, metrics = run(state, batch(i))
    assert np.isfinite(metrics["loss"])
  after = trees.flatten(state_params(state))
  moved = {path for path in after if (after[path] != before[path]).any()}
  assert not any(path.startswith("video/") for path in moved)
  # A bias of keys changes no softmax.
  still = after.keys() - moved - {p for p in after if p.startswith("video/")}
  assert all(p.endswith("attention/k/bias") for p in still), still


def test_the_share_of_what_learns_is_said():
  state = {"trainable": {"a": np.ones((2, 3))}, "frozen": {"b": np.ones(18)}}
  assert describe_trainable(state) == "Training 6 of 24 parameters (25.0%)."


def test_a_mesh_changes_nothing_but_rounding():
  """Eight devices, by the config's rules of sharding."""

  def gradients(devices, **mesh):
    c = get_config("size=tiny").sharding.to_dict()
    section = {"params": c["params"], "max_unsharded": 0.3}
    s = setup(devices, sharding=section, mesh=mesh)
    params = tiny.randomize(s.plan.shapes)
    if s.plan.layout.mesh is not None:
      params = jax.device_put(params, s.plan.shardings(s.plan.shapes))

    @jax.jit
    def take(params, batch):
      trainable, frozen = s.optimizer.split(params)
      example = step.make_example(batch, make_key(0, 0, 0), s)
      state = {"trainable": trainable, "frozen": frozen}
      return step.gradients(state, example, s)

    (loss, _), grads = take(params, put_batch(s, batch(0)))
    return float(loss), trees.flatten(jax.device_get(grads))

  loss, grads = gradients(jax.devices(), data=1, fsdp=2, context=2, tensor=2)
  expected, single = gradients(jax.devices()[:1], fsdp=1)
  assert abs(loss - expected) < 1e-6 * expected
  for path, g in single.items():
    atol = 2e-5 * np.abs(g).max()
    np.testing.assert_allclose(grads[path], g, rtol=0, atol=atol, err_msg=path)


def test_a_variance_is_that_of_noise():
  model = settings() | {"video": VIDEO | {"learns_variance": True}}
  with pytest.raises(ValueError, match="expected 'epsilon'"):
    setup(model=model)


@pytest.mark.parametrize("stage", CHOICES["stage"])
@pytest.mark.parametrize("fsdp_over", CHOICES["fsdp_over"])
def test_the_rules_of_sharding_fit_the_paper_size(stage, fsdp_over):
  config = get_config(f"size=xl,stage={stage},fsdp_over={fsdp_over}").to_dict()
  made = make_setup(config | {"mesh": {"fsdp": 4, "tensor": 2}}, jax.devices())
  frozen = trees.flatten(made.optimizer.split(made.plan.shapes)[1])
  assert bool(frozen) == (stage == "joint")
  if frozen:  # the share that configs and README state
    total = trees.count(made.plan.shapes)
    num = total - sum(x.size for x in frozen.values())
    assert (round(num / 1e6), round(total / 1e6)) == (221, 892)

"""Training steps: determinism, resuming, freezing, what the loss depends on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.checkpoints import manager
from ccl_jax.models import functional
from ccl_jax.params import trees
from ccl_jax.training import step
from ccl_jax.training.state import abstract_state, init_state, state_params
from tests.models import tiny
from tests.training import setups

pytestmark = pytest.mark.usefixtures("standard_promotion")
RATES = ((".*", 1e-2),)


@functools.cache
def setup(rates=RATES, **objective):
  return setups.make_setup(
    optimizer={"learning_rates": rates}, objective=objective
  )


@functools.cache
def first_state(rates=RATES):
  return init_state(setup(rates))


@functools.cache
def compiled(rates=RATES, **objective):
  r = setup(rates, **objective)
  return jax.jit(functools.partial(step.train_step, setup=r))


def batch(i, b=8):
  rng = np.random.default_rng(i)
  normal = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
  return {
    "video": normal(b, tiny.F, tiny.H, tiny.W, 3),
    "audio": normal(b, 2 * tiny.F, 2),
    "text": normal(b, tiny.L, 6),
    "null_text": np.zeros((tiny.L, 6), np.float32),
    "has_video": np.ones(b, bool),
    "has_audio": np.ones(b, bool),
  }


def on_device(i):
  return jax.tree.map(jnp.asarray, batch(i))


def run(state, steps):
  for i in steps:
    state, _ = compiled()(state, batch(i))
  return state


def equal(a, b):
  return all(
    np.array_equal(x, y)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  )


def test_resume_equals_never_having_stopped(tmp_path):
  """Bit for bit: parameters, optimizer, average, noise."""
  straight = run(first_state(), range(4))
  state = run(first_state(), range(2))
  first = manager.CheckpointManager(tmp_path, save_interval_steps=2)
  first.save(2, state)
  first.close()
  second = manager.CheckpointManager(tmp_path, save_interval_steps=2)
  state, at = second.restore_latest(abstract_state(setup()))
  assert at == 2
  resumed = run(state, range(2, 4))
  second.close()
  assert int(resumed["step"]) == 4
  assert equal(resumed, straight)


def test_training_lowers_the_loss():
  """On one batch, at the same times and noise before and after."""
  state = first_state()

  @jax.jit
  def loss(state):
    params, key = state_params(state), jax.random.key(0)
    example = step.make_example(on_device(0), key, setup())
    return step.loss_and_metrics(params, example, setup())[0]

  before = loss(state)
  for _ in range(9):
    state, _ = compiled()(state, batch(0))
  assert loss(state) < before


def test_frozen_parameters_stay_and_cost_no_state():
  rates = (("fusion/.*", 1e-2), (".*", 0.0))
  state = first_state(rates)
  new, _ = compiled(rates)(state, batch(0))
  assert equal(new["frozen"], state["frozen"])
  assert set(new["trainable"]) == {"fusion"}
  assert not equal(new["trainable"], state["trainable"])
  moments = [x for x in jax.tree.leaves(new["optimizer"]) if x.ndim]
  assert sum(x.size for x in moments) == 2 * trees.count(new["trainable"])


def test_the_average_follows_the_parameters():
  before = first_state()
  after, _ = compiled()(before, batch(0))
  decay = min(0.9, 1 / 10)
  expected = jax.tree.map(
    lambda a, b: decay * a + (1 - decay) * b, before["ema"], after["trainable"]
  )
  for a, b in zip(
    jax.tree.leaves(after["ema"]), jax.tree.leaves(expected), strict=True
  ):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_the_loss_of_a_sample_does_not_depend_on_the_rest():
  """Gradient of sample 0's own latents is the same in another batch."""
  params = tiny.randomize(functional.describe(tiny.SETTINGS)[1])
  key = jax.random.key(0)

  @jax.jit
  def gradient(video, rest):
    def value(video):
      example = step.make_example(rest | {"video": video}, key, setup())
      return step.loss_and_metrics(params, example, setup())[0]

    return jax.grad(value)(video)

  one, two = batch(0), batch(1)
  for name in ("video", "audio", "text"):
    two[name][0] = one[name][0]
  a = gradient(one["video"], {k: v for k, v in one.items() if k != "video"})
  b = gradient(two["video"], {k: v for k, v in two.items() if k != "video"})
  np.testing.assert_allclose(a[0], b[0], rtol=1e-4, atol=1e-7)
  assert np.abs(a[1] - b[1]).max() > 1e-6


def test_a_video_only_loss_reaches_the_audio_stream_through_nothing():
  """Audio -> video only: no parameter of the audio stream gets a gradient."""
  only_a2v = dict(probabilities=(0.0, 1.0, 0.0, 0.0))
  params = tiny.randomize(functional.describe(tiny.SETTINGS)[1])

  def value(params):
    r = setup(**only_a2v)
    example = step.make_example(on_device(0), jax.random.key(0), r)
    return step.loss_and_metrics(params, example, r)[0]

  gradients = trees.flatten(jax.jit(jax.grad(value))(params))
  for path, g in gradients.items():
    is_zero = float(jnp.abs(g).max()) == 0
    assert is_zero or not path.startswith(("audio/", "fusion/audio/")), path
  assert float(jnp.abs(gradients["fusion/video/context"]).max()) > 0


def test_a_rule_that_matches_nothing_is_an_error():
  with pytest.raises(ValueError, match="fusoin"):
    setup((("fusoin/.*", 1e-4), (".*", 1e-5)))


def test_a_step_that_is_not_finite_changes_nothing():
  before = dict(first_state())
  bad = batch(0)
  bad["video"][0, 0, 0, 0, 0] = np.nan
  after, metrics = compiled()(before, bad)
  assert int(after.pop("step")) == 1 and int(before.pop("step")) == 0
  assert int(after.pop("skipped")) == int(metrics["skipped"]) == 1
  before.pop("skipped")
  assert equal(after, before)
  after |= {"step": np.int32(1), "skipped": np.int32(1)}
  _, metrics = compiled()(after, batch(1))
  assert int(metrics["skipped"]) == 0
  # The rate is that of the first update, which this one is.
  _, first = compiled()(first_state(), batch(0))
  rate = float(first["learning_rate_factor"])
  assert float(metrics["learning_rate_factor"]) == rate < 1


def test_frozen_parts_may_be_small_and_the_average_absent():
  rates = (("fusion/.*", 1e-2), (".*", 0.0))
  settings = {
    "learning_rates": rates,
    "frozen_dtype": "bfloat16",
    "ema_decay": 0.0,
  }
  small = setups.make_setup(optimizer=settings)
  state = abstract_state(small)
  for half, dtype in (("frozen", "bfloat16"), ("trainable", "float32")):
    assert {str(x.dtype) for x in jax.tree.leaves(state[half])} == {dtype}
  assert state["ema"] == {}


def test_a_batch_smaller_than_its_padding_is_an_error():
  for parts in (0, 16, 100):
    with pytest.raises(ValueError, match=f"grad_accumulation_steps={parts}"):
      setups.make_setup(batch_size=8, grad_accumulation_steps=parts)

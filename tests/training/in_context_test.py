"""Steps of models whose audio is a condition, and what such runs cannot be."""

import functools

import jax
import numpy as np
import pytest

from ccl_jax.params import trees
from ccl_jax.training import step
from ccl_jax.training.batch import split_microbatches
from ccl_jax.training.state import init_state, state_params
from tests.models import tiny
from tests.models.icac_test import settings
from tests.training import setups
from tests.training.step_test import batch

pytestmark = pytest.mark.usefixtures("standard_promotion")
OBJECTIVE = {"probabilities": (0.1, 0.9, 0.0, 0.0), "audio_weight": 0.0}


def setup(attention, references=False, **objective):
  model = settings(attention=attention, references=references)
  return setups.make_setup(model=model, objective=OBJECTIVE | objective)


def test_a_loss_with_reference_pictures_is_the_mean_of_its_parts():
  s = setup("masked3d", references=True, reference_probability=0.7)
  params = tiny.randomize(s.plan.shapes)
  make = functools.partial(step.make_example, setup=s)
  example = jax.jit(make)(batch(0), jax.random.key(0))
  assert 0 < example.image.has_references.sum() < s.batch_size
  run = jax.jit(lambda p, x: step.loss_and_metrics(p, x, s)[0])
  parts = split_microbatches(example, 2, s.plan.layout)
  losses = [run(params, jax.tree.map(lambda x: x[i], parts)) for i in (0, 1)]  # noqa: B023
  np.testing.assert_allclose(run(params, example), sum(losses) / 2, rtol=1e-5)


@pytest.mark.parametrize("attention", ["cross2d", "self2d", "full3d"])
def test_two_steps_update_the_embedding_of_the_audio(attention):
  s = setup(attention)
  run = jax.jit(functools.partial(step.train_step, setup=s))
  state = init_state(s)
  before = trees.flatten(state_params(state))
  for i in range(2):
    state, metrics = run(state, batch(i))
    assert np.isfinite(metrics["loss"])
  after = trees.flatten(state_params(state))
  moved = {path for path in after if (after[path] != before[path]).any()}
  assert "audio/embed/kernel" in moved
  assert any(path.startswith("video/blocks/") for path in moved)


@pytest.mark.parametrize(
  ("objective", "words"),
  [
    ({"probabilities": (0.0, 0.5, 0.5, 0.0)}, "'v2a', which generates audio"),
    ({"probabilities": (0.0, 0.5, 0.0, 0.5)}, "'joint', which generates"),
    ({"audio_weight": 0.15}, "'apart'.*audio_weight=0"),
    ({"reference_probability": 0.5}, "model.fusion.references=True"),
  ],
)
def test_what_generates_the_condition_is_an_error(objective, words):
  with pytest.raises(ValueError, match=words):
    setup("masked3d", **objective)

"""Eq. 1 of the optimizer: its schedule, what it costs, its wrong numbers."""

import jax
import numpy as np
import optax
import pytest

from ccl_jax.training.optim import Optimizer

RATES = ((".*", 1e-2),)


@pytest.mark.parametrize(
  ("schedule", "falling"),
  [("constant", [1, 1, 1]), ("cosine", [1, 0.5, (1 - np.cos(np.pi / 6)) / 2])],
)
def test_the_rate_rises_then_stays_or_falls(schedule, falling):
  """4 steps of warm-up, 6 more: the first, the middle and the last of them."""
  rate = jax.jit(
    Optimizer(RATES, warmup_steps=4, schedule=schedule).make_schedule(10)
  )
  found = [float(rate(i)) for i in range(10)]
  np.testing.assert_allclose(found[:4], [0.25, 0.4375, 0.625, 0.8125], 1e-6)
  np.testing.assert_allclose([found[i] for i in (4, 7, 9)], falling, 1e-5)


def test_the_cosine_is_taken_once_not_for_every_parameter():
  params = {f"layer_{i}": {"kernel": np.ones((8, 8))} for i in range(5)}
  transform = Optimizer(RATES, schedule="cosine").transform(params, 1000)
  state = transform.init(params)

  def update(state, params):
    updates, state = transform.update(params, state, params)
    return optax.apply_updates(params, updates), state

  text = jax.jit(update).lower(state, params).compile().as_text()
  assert text.count(" cosine(") == 1


@pytest.mark.parametrize(
  ("fields", "words"),
  [({"schedule": "linear"}, "schedule"), ({"ema_decay": 1.5}, "ema_decay")],
)
def test_wrong_numbers_are_named(fields, words):
  with pytest.raises(ValueError, match=words):
    Optimizer(RATES, **fields)

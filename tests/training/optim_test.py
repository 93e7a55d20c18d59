"""Eq. 1 of the optimizer: its schedule and wrong numbers."""

import jax
import numpy as np
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


@pytest.mark.parametrize(
  ("fields", "words"),
  [
    ({"schedule": "linear"}, "schedule='linear'"),
    ({"ema_decay": 1.5}, "ema_decay=1.5"),
    ({"b1": 1.0}, "b1=1.0: expected 0 <= b1 < 1"),
    ({"b2": float("nan")}, "b2=nan"),
    ({"eps": -1.0}, "eps=-1.0"),
    ({"clip_global_norm": 0.0}, "clip_global_norm=0.0: expected more than 0"),
    ({"weight_decay": -1.0}, "weight_decay=-1.0"),
    ({"warmup_steps": -1}, "warmup_steps=-1"),
    ({"learning_rates": ((".*", -1.0),)}, "learning_rates=.*at least 0"),
    ({"frozen_dtype": "int8"}, "frozen_dtype='int8'"),
    ({"learning_rates": (("[", 1e-4),)}, "learning_rates: '\\[' is no regex"),
  ],
)
def test_what_is_wrong_is_named_as_in_a_config(fields, words):
  with pytest.raises(ValueError, match=f"^optimizer.{words}"):
    Optimizer(**{"learning_rates": RATES} | fields)

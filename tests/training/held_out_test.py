"""The loss on held-out clips: what it depends on, and what it is."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from ccl_jax.training import step
from ccl_jax.training.held_out import evaluate, mean_losses
from ccl_jax.training.setup import HELD_OUT, make_key
from tests.models import tiny
from tests.training import setups
from tests.training.step_test import batch


def test_it_depends_on_the_parameters_alone():
  """And is the mean over the groups of all batches, in parts or not."""
  setup = setups.make_setup(grad_accumulation_steps=2)
  params = tiny.randomize(setup.plan.shapes)
  take = jax.jit(functools.partial(evaluate, setup=setup))

  def measure(params):
    return mean_losses(params, ((batch(i), take) for i in range(2)))

  found = measure(params)
  assert found == measure(params)
  assert found != measure(jax.tree.map(lambda x: 1.01 * x, params))

  objective = dataclasses.replace(setup.objective, text_dropout=0.0)
  whole = dataclasses.replace(
    setup, objective=objective, grad_accumulation_steps=1
  )

  @jax.jit
  def expected(params, batch, i):
    example = step.make_example(batch, make_key(setup.seed, i, HELD_OUT), whole)
    return step.loss_and_metrics(params, example, whole)

  parts = [expected(params, batch(i), jnp.asarray(i)) for i in range(2)]
  loss = np.mean([value for value, _ in parts])
  np.testing.assert_allclose(found["held_out/loss"], loss, rtol=1e-5)
  for name, mean in found.items():
    if name != "held_out/loss":
      name = name.removeprefix("held_out/")
      sums, counts = (
        sum(float(metrics[kind][name]) for _, metrics in parts)
        for kind in ("sum", "count")
      )
      np.testing.assert_allclose(mean, sums / counts, rtol=1e-5)
  names = {name.split("/")[1] for name in found}
  assert names == {"loss", "loss_t"} and "held_out/loss/joint/video" in found

"""Reference pictures: frames beside those of a clip, for who has any."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.array_types import Image
from ccl_jax.models import functional
from ccl_jax.models.fusion.icac import ATTENTIONS
from ccl_jax.params.sharding import ONE_DEVICE
from tests.models import tiny
from tests.models.icac_test import (
  B,
  check_audio_is_run_once,
  inputs,
  layout_of,
  model,
  settings,
)


def pictures(has=(True, False), num=1, seed=1):
  """Random ones of each sample, and who has them."""
  shape = B, num, tiny.H, tiny.W, 3
  drawn = np.random.default_rng(seed).standard_normal(shape, np.float32)
  has = np.repeat(np.array(has)[:, None], num, 1)
  return Image(references=jnp.asarray(drawn), has_references=jnp.asarray(has))


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_a_picture_changes_the_samples_that_have_it_alone(attention):
  run, params = model(attention=attention, references=True)
  plain, _ = model(attention=attention)
  given = inputs()
  without, before = (each(params, *given)["video"] for each in (run, plain))
  np.testing.assert_array_equal(without, before)
  told = run(params, *given, pictures())["video"]
  assert told.shape == without.shape
  np.testing.assert_allclose(told[1], without[1], rtol=1e-4, atol=1e-5)
  assert jnp.abs(told[0] - without[0]).max() > 1e-3
  # Nothing of a picture that is not there is read.
  other = run(params, *given, pictures(seed=2))["video"]
  np.testing.assert_array_equal(other[1], told[1])
  assert jnp.abs(other[0] - told[0]).max() > 1e-3


def test_pictures_of_a_video_alone_and_the_gradient_of_what_reads_them():
  run, params = model(attention="masked3d", references=True)
  (state, t, text, route), image = inputs(), pictures(num=2)
  alone = {"video": state["video"]}, {"video": t["video"]}, text, route

  @jax.jit
  @jax.grad
  def gradient(image, has):
    out = run(params, *alone, Image(None, None, image, has))["video"]
    return jnp.sum(jnp.sin(out))

  found = gradient(image.references, image.has_references)
  assert jnp.isfinite(found).all()
  moves = jnp.abs(found).max((2, 3, 4)) > 0
  assert moves.tolist() == [[True, True], [False, False]]


@pytest.mark.parametrize(
  ("attention", "num"), [("cross2d", 2), ("masked3d", 2), ("full3d", 1)]
)
def test_a_mesh_equals_one_device(attention, num):
  """Three frames and pictures on a context axis of two."""
  given, image = inputs(), pictures(num=num)

  def outputs(layout):
    options = dict(heads=2, attention=attention, references=True)
    run, params = model(layout, **options)
    return run(params, *given, image)["video"]

  np.testing.assert_allclose(
    outputs(layout_of(fsdp=1, tensor=2)), outputs(ONE_DEVICE), rtol=1e-4,
    atol=1e-5,
  )  # fmt: skip


@pytest.mark.parametrize("attention", ["cross2d", "self2d_frozen"])
def test_audio_that_is_run_once_knows_no_picture(attention):
  check_audio_is_run_once(pictures(), attention=attention, references=True)


@pytest.mark.parametrize(
  ("references", "image", "words"),
  [
    (False, pictures(), "model.fusion.references=True"),
    (True, pictures()._replace(has_references=jnp.ones(B)), "has_references"),
    (
      True,
      Image(None, None, jnp.zeros((B, 1, 2, 2, 3)), jnp.ones((B, 1), bool)),
      r"reference pictures are \(2, 1, 2, 2, 3\)",
    ),
  ],
)
def test_pictures_that_cannot_be_read_are_named(references, image, words):
  graph, shapes = functional.describe(settings(references=references))
  velocity = functools.partial(functional.velocity, graph)
  with pytest.raises(ValueError, match=words):
    jax.eval_shape(velocity, shapes, *inputs(), image)


def test_other_fusions_have_no_such_key():
  with pytest.raises(ValueError, match="references"):
    functional.describe(
      tiny.SETTINGS | dict(fusion=dict(kind="cca", references=True))
    )

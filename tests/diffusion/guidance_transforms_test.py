"""Transforms against their papers' formulas, written out in NumPy."""

import collections

import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.diffusion import guidance, guidance_transforms
from ccl_jax.diffusion.guidance_transforms import TRANSFORMS
from tests.diffusion.guidance_test import (
  CONDITION,
  FORMULAS,
  SCALES,
  STATE,
  TIME,
  B,
  Recorder,
  run,
  v,
)

ETA, LIMIT = 0.25, 1.5
ONE_SCALE = {"text": ("n", "x"), "ucg2": ("n", "L"), "sync": ("c", "null")}


def make_transform(name, eta=0.0, norm_threshold=0.0, momentum=0.0):
  return guidance_transforms.make_transform(name, eta, norm_threshold, momentum)


def transform(name):
  return make_transform(name, ETA, LIMIT)


def cfg_zero(c, u, w, x, t):
  a = np.sum(c * u) / np.sum(u * u)
  return a * u + w * (c - a * u)


def apg(c, u, w, x, t):
  """As the paper's Algorithm 1, without momentum, on predicted data."""
  data, data_u = x - t * c, x - t * u
  diff = data - data_u
  diff = diff * min(1, LIMIT / np.linalg.norm(diff))
  unit = data / np.linalg.norm(data)
  parallel = np.sum(diff * unit) * unit
  guided = data + (w - 1) * (diff - parallel + ETA * parallel)
  return (x - guided) / t


@pytest.mark.parametrize("rule", ONE_SCALE)
@pytest.mark.parametrize("formula", [cfg_zero, apg])
def test_rules_of_one_scale_are_the_papers(rule, formula):
  """Of each stream and sample by itself."""
  found, _ = run(rule, transform=transform(formula.__name__))
  for s, x in STATE.items():
    c, u = (np.asarray(v(s, *one)) for one in (("c", "x"), ONE_SCALE[rule]))
    w = SCALES[s]["scale"]
    for i in range(B):
      t = float(TIME[s][i])
      expected = formula(c[i], u[i], w, np.asarray(x[i]), t)
      np.testing.assert_allclose(found[s][i], expected, rtol=2e-4, atol=2e-3)


PAIRS = {name: {"scale": (("c", "x"), one)} for name, one in ONE_SCALE.items()}
PAIRS |= {
  "none": {},
  "ucg3": {
    "cross": (("n", "x"), ("n", "L")), "text": (("c", "x"), ("n", "x")),
  },
  "ucg3_text_first": {
    "text": (("c", "L"), ("n", "L")), "cross": (("c", "x"), ("c", "L")),
  },
  "multimodal": {
    "text": (("c", "x"), ("n", "x")), "cross": (("c", "x"), ("c", "drop")),
  },
}  # fmt: skip


class MomentumBuffer:
  """As the paper's Algorithm 1."""

  def __init__(self, momentum):
    self.momentum, self.running_average = momentum, 0

  def update(self, value):
    self.running_average = value + self.momentum * self.running_average


@pytest.mark.parametrize("rule", guidance.RULES)
def test_momentum_is_the_papers_over_several_steps(rule):
  """A buffer for each difference, stream and sample; other times each step."""
  own, momentum = guidance.rule(rule), -0.6
  function = guidance.guide(
    Recorder(), own, SCALES,
    transform=make_transform("apg", ETA, LIMIT, momentum),
  )  # fmt: skip
  buffers = collections.defaultdict(lambda: MomentumBuffer(momentum))
  transform_state = guidance.init_transform_state(own, STATE)
  for factor in (1.0, 0.7, 0.4, 0.1):
    time = {s: factor * t for s, t in TIME.items()}
    found, transform_state = function(STATE, time, CONDITION, transform_state)
    for s, x in STATE.items():
      pairs = PAIRS[rule]
      variants = {("c", "x")}.union(*pairs.values())
      told = {one: np.asarray(v(s, *one, time=time)) for one in variants}
      for i in range(B):
        t, here = float(time[s][i]), np.asarray(x[i], np.float64)
        pred = {one: here - t * value[i] for one, value in told.items()}
        guided = data = pred["c", "x"]
        unit = data / np.linalg.norm(data)
        for scale, (plus, minus) in pairs.items():
          buffer = buffers[s, i, scale]
          buffer.update(pred[plus] - pred[minus])
          diff = buffer.running_average
          diff = diff * min(1, LIMIT / np.linalg.norm(diff))
          parallel = np.sum(diff * unit) * unit
          update = diff - parallel + ETA * parallel
          guided = guided + (SCALES[s][scale] - 1) * update
        expected = (here - guided) / t
        np.testing.assert_allclose(found[s][i], expected, rtol=2e-4, atol=4e-3)


@pytest.mark.parametrize("name", ["ucg3", "ucg3_text_first", "multimodal"])
def test_two_scales_are_two_terms(name):
  """Where nothing is projected or cut, apg is the rule; cfg_zero fits each."""
  free = make_transform("apg", eta=1.0)
  found, expected = run(name, transform=free)[0], run(name)[0]
  fitted, _ = run(name, transform=transform("cfg_zero"))
  pairs = {
    "ucg3": (("cross", "nx", "nL"), ("text", "cx", "nx")),
    "ucg3_text_first": (("text", "cL", "nL"), ("cross", "cx", "cL")),
    "multimodal": (("text", "cx", "nx"), ("cross", "cx", ("c", "drop"))),
  }[name]
  for s in STATE:
    np.testing.assert_allclose(found[s], expected[s], rtol=1e-3, atol=1e-2)
    guided = np.asarray(v(s, "c", "x"))
    for scale, plus, minus in pairs:
      p, m = (np.asarray(v(s, *variant)) for variant in (plus, minus))
      axes = tuple(range(1, p.ndim))
      a = np.sum(p * m, axes, keepdims=True) / np.sum(
        m * m, axes, keepdims=True
      )
      guided = guided + (SCALES[s][scale] - 1) * (p - a * m)
    np.testing.assert_allclose(fitted[s], guided, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("name", guidance.RULES)
@pytest.mark.parametrize("kind", ["cfg_zero", "apg"])
def test_scales_of_1_are_no_guidance(name, kind):
  ones = {s: dict.fromkeys(x, 1.0) for s, x in SCALES.items()}
  found, _ = run(name, scales=ones, transform=transform(kind))
  for s in STATE:
    expected = FORMULAS["none"](lambda *one, s=s: v(s, *one))
    np.testing.assert_array_equal(found[s], np.asarray(expected))


@pytest.mark.parametrize("kind", ["cfg_zero", "apg"])
def test_what_is_given_has_no_part_in_it(kind):
  x = jnp.asarray(np.random.default_rng(0).normal(size=(B, 3, 4)), jnp.float32)
  t = jnp.full((B, 3, 1), 0.5).at[:, 0].set(0.0)
  given = lambda factor: x.at[:, 0].multiply(factor)  # noqa: E731
  found = [
    transform(kind)(
      given(f), [(3.0, given(f), jnp.cos(given(f)))], given(f), t, ()
    )[0]
    for f in (1.0, 100.0)
  ]
  np.testing.assert_array_equal(found[0][:, 1:], found[1][:, 1:])
  assert np.isfinite(found[1]).all()


def test_the_first_steps_may_be_zero():
  above = {"video": 0.5, "audio": 0.9}
  found, _ = run("ucg2", zero_above=above)
  plain, _ = run("ucg2")
  for s, x in plain.items():
    for i in range(B):
      is_zero = float(TIME[s][i]) >= above[s]
      np.testing.assert_array_equal(found[s][i], 0 if is_zero else x[i])


def test_what_is_unknown_is_refused():
  for name in ("cfgzero", ""):
    with pytest.raises(ValueError, match="expected one of none, cfg_zero, apg"):
      make_transform(name)
  assert make_transform("none") is None and len(TRANSFORMS) == 3

"""Every row against its formula, written out again for a recording velocity."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.array_types import Image
from ccl_jax.diffusion import guidance
from ccl_jax.diffusion.forward_passes import Condition
from ccl_jax.diffusion.tasks import inference_task

B = 2
STATE = {
  "video": jnp.arange(2.0 * 3 * 4).reshape(B, 3, 1, 1, 4),
  "audio": jnp.arange(2.0 * 6 * 3).reshape(B, 6, 3) / 7,
}
TIME = {"video": jnp.array([0.3, 0.8]), "audio": jnp.array([0.3, 0.8])}
NULL = {"video": jnp.full((1, 3, 1, 1, 4), -50.0), "audio": jnp.full((3,), 9.0)}
SCALES = {
  "video": {"scale": 4.0, "text": 3.0, "cross": 2.5},
  "audio": {"scale": 1.5, "text": 5.0, "cross": 0.5},
}
CONDITION = Condition(
  text=jnp.ones((B, 5, 4)),
  negative=-jnp.ones((B, 5, 4)),
  route=inference_task("t2av").route(B),
  null=NULL,
)


class Recorder:
  """A velocity that depends on all its inputs, and keeps them."""

  def __init__(self):
    self.calls = []

  def __call__(self, state, t, condition):
    self.calls.append((state, t, condition))
    return {
      s: velocity(s, state, t, condition.text, condition.route) for s in state
    }


def velocity(stream, state, t, text, route):
  """Depends, nonlinearly, on everything a variant may change."""
  rest = sum(jnp.mean(x, range(1, x.ndim)) for x in state.values())
  flags = {
    2.0: route.sees[stream],
    4.0: route.exchanges,
    8.0: route.is_generated["video"],
    16.0: route.is_generated["audio"],
  }
  code = (
    jnp.mean(text, (1, 2))
    + sum(weight * flag.astype(float) for weight, flag in flags.items())
    + sum(jnp.mean(x, range(1, x.ndim)) for x in t.values())
    + jnp.sin(rest)
  )
  shape = (-1,) + (1,) * (state[stream].ndim - 1)
  return code.reshape(shape) ** 2 * jnp.cos(state[stream])


def run(name, state=STATE, condition=CONDITION, scales=SCALES, **options):
  recorder = Recorder()
  function = guidance.guide(recorder, guidance.rule(name), scales, **options)
  t = {s: TIME[s] for s in state}
  result = function(state, t, condition)
  call = recorder.calls[0]
  assert len(recorder.calls) == 1  # one forward
  assert {s: x.shape for s, x in result.items()} == {
    s: x.shape for s, x in state.items()
  }
  return result, call


def v(stream, text, other, time=TIME):
  """The velocity of one stream under one variant, by the definition."""
  state, t, route = STATE, time, CONDITION.route
  no = jnp.zeros(B, bool)
  if other == "L":
    route = route._replace(sees={"video": no, "audio": no})
  elif other == "drop":
    route = route._replace(exchanges=no)
  elif other == "null" and stream == "video":
    null = jnp.broadcast_to(NULL["audio"], STATE["audio"].shape)
    state, t = STATE | {"audio": null}, t | {"audio": 0 * t["audio"]}
    route = blind_reference(route, "audio")
  elif other == "null":
    null = jnp.broadcast_to(NULL["video"], STATE["video"].shape)
    state, t = STATE | {"video": null}, t | {"video": 0 * t["video"]}
    route = blind_reference(route, "video")
  text = {"c": CONDITION.text, "n": CONDITION.negative}[text]
  return velocity(stream, state, t, text, route)


def blind_reference(route, stream):
  no = {stream: jnp.zeros(B, bool)}
  return route._replace(
    sees=route.sees | no, is_generated=route.is_generated | no
  )


FORMULAS = {  # v(text, other), scales -> velocity
  "none": lambda v, **_: v("c", "x"),
  "text": lambda v, scale, **_: (
    v("n", "x") + scale * (v("c", "x") - v("n", "x"))
  ),
  "ucg2": lambda v, scale, **_: (
    v("n", "L") + scale * (v("c", "x") - v("n", "L"))
  ),
  "ucg3": lambda v, text, cross, **_: (
    v("n", "L")
    + cross * (v("n", "x") - v("n", "L"))
    + text * (v("c", "x") - v("n", "x"))
  ),
  "ucg3_text_first": lambda v, text, cross, **_: (
    v("n", "L")
    + text * (v("c", "L") - v("n", "L"))
    + cross * (v("c", "x") - v("c", "L"))
  ),
  "multimodal": lambda v, text, cross, **_: (
    v("c", "x")
    + (text - 1) * (v("c", "x") - v("n", "x"))
    + (cross - 1) * (v("c", "x") - v("c", "drop"))
  ),
  "sync": lambda v, scale, **_: (
    v("c", "null") + scale * (v("c", "x") - v("c", "null"))
  ),
}
PASSES = {"none": 1, "text": 2, "ucg2": 2, "ucg3": 3, "ucg3_text_first": 3,
          "multimodal": 3, "sync": 3}  # fmt: skip


@pytest.mark.parametrize("name", guidance.RULES)
def test_row_is_its_formula_in_one_forward(name):
  result, (state, t, condition) = run(name)
  for stream in STATE:
    expected = FORMULAS[name](
      lambda text, other, s=stream: v(s, text, other), **SCALES[stream]
    )
    np.testing.assert_allclose(
      result[stream], expected, rtol=1e-4, atol=1e-3, err_msg=stream
    )
  size = B * PASSES[name]
  assert {len(x) for x in (*state.values(), *t.values())} == {size}
  assert len(condition.text) == len(condition.route.exchanges) == size


@pytest.mark.parametrize("name", guidance.RULES)
def test_passes_in_turn_give_the_same_result(name):
  recorder = Recorder()
  rule = guidance.rule(name)
  function = guidance.guide(recorder, rule, SCALES, batched=False)
  result, expected = function(STATE, TIME, CONDITION), run(name)[0]
  for s in STATE:
    np.testing.assert_allclose(result[s], expected[s], rtol=1e-6, atol=1e-5)
  assert len(recorder.calls) == PASSES[name]
  _, (_, _, together) = run(name)
  variants = [condition.variants for _, _, condition in recorder.calls]
  assert tuple(v for (v,) in variants) == together.variants
  assert set(together.variants) == set(rule.variants)


def test_rescaling_goes_to_the_deviation_of_the_conditional_velocity():
  """By eq. 1, of each sample and stream, where it is not given."""
  plain, full, half, none = (
    run(name, rescale=r)[0]
    for name, r in (("none", 0.0), ("ucg2", 1.0), ("ucg2", 0.5), ("ucg2", 0.0))
  )
  for s in STATE:
    axes = tuple(range(1, STATE[s].ndim))
    expected = jnp.std(plain[s], axes)
    np.testing.assert_allclose(jnp.std(full[s], axes), expected, rtol=1e-4)
    middle = (full[s] + none[s]) / 2
    np.testing.assert_allclose(half[s], middle, rtol=1e-4, atol=1e-4)


def test_rescaling_leaves_out_what_is_given():
  t = TIME | {"video": jnp.full((B, 3, 1), 0.5).at[:, 0].set(0.0)}

  def scaled(factor):
    function = guidance.guide(
      lambda state, *_: jax.tree.map(lambda x: x * given, state),
      guidance.rule("ucg2"), SCALES, rescale=1.0,
    )  # fmt: skip
    given = jnp.array([factor, 1.0, 1.0])[None, :, None, None, None]
    state = {"video": STATE["video"]}
    return function(state, {"video": t["video"]}, CONDITION)["video"]

  np.testing.assert_array_equal(scaled(1.0)[:, 1:], scaled(100.0)[:, 1:])


def test_a_held_reference_is_not_in_the_state():
  """Each pass says which run of the reference it reads."""
  condition = dataclasses.replace(
    CONDITION, cached=("audio",), route=inference_task("a2v").route(B),
    image=Image(tokens=jnp.zeros((B, 7, 3))),
  )  # fmt: skip
  recorder = Recorder()
  function = guidance.guide(
    lambda *args: {"video": recorder.calls.append(args) or args[0]["video"]},
    guidance.rule("sync"), SCALES,
  )  # fmt: skip
  function({"video": STATE["video"]}, {"video": TIME["video"]}, condition)
  ((state, _, condition),) = recorder.calls
  assert set(state) == {"video"} and len(condition.image.tokens) == 2 * B
  read = [v.reference for v in condition.variants]
  assert read == [("prompt", "null"), ("prompt", "given")]
  found = {
    name: guidance.references(rule) for name, rule in guidance.RULES.items()
  }
  prompt, negative = ("prompt", "given"), ("negative", "given")
  one, both = (prompt,), (prompt, negative)
  assert found == {
    "none": one, "text": both, "ucg2": one, "ucg3": both,
    "ucg3_text_first": one, "multimodal": both,
    "sync": (prompt, ("prompt", "null")),
  }  # fmt: skip


def test_ucg2_at_one_is_the_conditional_velocity_exactly():
  scales = {s: {"scale": 1.0} for s in STATE}
  result, _ = run("ucg2", scales=scales)
  expected, _ = run("none")
  for s in STATE:
    np.testing.assert_array_equal(result[s], expected[s])


def test_variants_of_a_sample_stay_together():
  _, (state, _, condition) = run("ucg2")
  np.testing.assert_array_equal(
    state["audio"], jnp.repeat(STATE["audio"], 2, axis=0)
  )
  np.testing.assert_array_equal(condition.text[:, 0, 0], [-1, 1, -1, 1])
  np.testing.assert_array_equal(condition.route.sees["video"], [0, 1] * 2)


def test_null_drives_at_time_zero():
  _, (state, t, condition) = run("sync")
  route = condition.route  # passes: null audio, seen, null video
  assert (state["audio"][0] == 9).all() and (state["video"][2] == -50).all()
  np.testing.assert_allclose(t["audio"][:3], [0, 0.3, 0.3])
  np.testing.assert_allclose(t["video"][:3], [0.3, 0.3, 0])
  np.testing.assert_array_equal(route.is_generated["audio"][:3], [0, 1, 1])
  np.testing.assert_array_equal(route.is_generated["video"][:3], [1, 1, 0])
  np.testing.assert_array_equal(route.sees["video"][:3], [1, 1, 0])
  np.testing.assert_array_equal(route.sees["audio"][:3], [0, 1, 1])


def test_a_stream_alone_and_times_per_frame():
  video = {"video": STATE["video"]}
  recorder = Recorder()
  function = guidance.guide(recorder, guidance.rule("ucg3"), SCALES)
  t = {"video": jnp.zeros((B, 3, 1)).at[:, 1:].set(0.5)}
  result = function(video, t, CONDITION)
  assert set(result) == {"video"}
  np.testing.assert_array_equal(
    recorder.calls[0][1]["video"], jnp.repeat(t["video"], 3, axis=0)
  )
  with pytest.raises(ValueError, match="replaces the audio"):
    run("sync", state=video)


def test_wrong_requests_are_named():
  with pytest.raises(ValueError, match=r"'cfg'.*none, text, ucg2"):
    guidance.rule("cfg")
  for name, key in (("ucg2", "negative"), ("sync", "null")):
    condition = dataclasses.replace(CONDITION, **{key: None})
    with pytest.raises(ValueError, match=key):
      run(name, condition=condition)
  with pytest.raises(ValueError, match="'cross' is missing"):
    run("ucg3", scales={s: {"text": 1.0} for s in STATE})


def test_every_variant_is_told_of_the_image():
  image = Image(tokens=jnp.arange(2.0 * 3 * 4).reshape(B, 3, 4))
  seen = []

  def record(state, t, condition):
    seen.append(condition.image)
    return state

  function = guidance.guide(record, guidance.rule("ucg3"), SCALES)
  function(STATE, TIME, dataclasses.replace(CONDITION, image=image))
  assert seen[0].latents is None
  np.testing.assert_array_equal(seen[0].tokens, np.repeat(image.tokens, 3, 0))

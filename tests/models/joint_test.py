"""Properties of the joint model, on a mixed batch of all four tasks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.array_types import STREAMS, Image, Route, other
from ccl_jax.models import functional
from ccl_jax.params import trees
from tests.models import tiny


class Frozen(dict):
  """A dict that can be a cache key."""

  def __hash__(self):
    return hash(tuple(sorted(self.items())))


def changed(**fields):
  return tiny.SETTINGS | fields


@functools.cache
def model(**fields):
  """(velocity, random parameters) of the tiny model."""
  settings = changed(**fields)
  graph, shapes = functional.describe(settings)
  run = jax.jit(functools.partial(functional.velocity, graph))
  return run, tiny.randomize(shapes)


@functools.cache
def loss_and_gradient(**fields):
  """Of the parameters, by one program."""
  run, params = model(**fields)

  @jax.jit
  @jax.value_and_grad
  def loss(params):
    out = run(params, *tiny.inputs())
    return sum(jnp.square(x).sum() for x in out.values())

  return loss(params)


def largest(a, b):
  """Largest difference of two trees, relative to the largest value of b."""
  pairs = list(zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
  scale = max(float(jnp.abs(y).max()) for _, y in pairs)
  return max(float(jnp.abs(x - y).max()) for x, y in pairs) / scale


def test_new_model_equals_two_independent_towers():
  """W_o = 0: the exchange adds exact zeros, whatever the rest."""
  run, params = model()
  leaves = trees.flatten(params)
  leaves |= {
    path: jnp.zeros_like(x)
    for path, x in leaves.items()
    if path.startswith("fusion/") and "/o/" in path
  }
  joined = run(trees.unflatten(leaves), *tiny.inputs())
  towers, _ = model(fusion=Frozen(kind="independent"))
  alone = towers({s: params[s] for s in ("video", "audio")}, *tiny.inputs())
  assert largest(joined, alone) == 0


def test_initial_fusion_output_is_zero():
  @jax.jit
  def outputs(key):
    fusion = functional.init_params(tiny.SETTINGS, key)["fusion"]
    return [fusion[side]["attention"]["o"] for side in ("video", "audio")]

  leaves = jax.tree.leaves(outputs(jax.random.key(0)))
  assert len(leaves) == 4 and not any(x.any() for x in leaves)


@pytest.mark.parametrize(
  "fields",
  [
    {"scan": False},
    {"remat": "full"},
    {"remat": "linear"},
    {"remat": "attention"},
    {"remat": "attention_ffn"},
    {"remat": "offload"},
  ],
  ids=["loop", "full", "linear", "attention", "attention_ffn", "offload"],
)
def test_scan_loop_and_remat_agree_in_value_and_gradient(fields):
  (a, da), (b, db) = loss_and_gradient(), loss_and_gradient(**fields)
  assert abs(a - b) <= 1e-5 * abs(a)
  assert largest(da, db) <= 1e-5


def test_a_stream_alone_equals_the_joint_model_routed_apart():
  run, params = model()
  state, t, text, _ = tiny.inputs()
  no, yes = jnp.zeros(tiny.B, bool), jnp.ones(tiny.B, bool)
  route = Route(dict.fromkeys(STREAMS, no), dict.fromkeys(STREAMS, yes), yes)
  both = run(params, state, t, text, route)
  for s in state:
    alone = run(params, {s: state[s]}, {s: t[s]}, text, route)
    assert largest(alone[s], both[s]) < 1e-5


def test_time_per_token_equals_time_per_sample():
  run, params = model()
  state, t, text, route = tiny.inputs()
  frames = {s: jnp.repeat(x[:, None, None], tiny.F, 1) for s, x in t.items()}
  per_frame = {"video": 6, "audio": 2}
  tokens = {s: jnp.repeat(x, per_frame[s], 2) for s, x in frames.items()}
  per_sample = run(params, state, t, text, route)
  for times in (frames, tokens):
    assert largest(per_sample, run(params, state, times, text, route)) < 1e-5


@pytest.mark.parametrize("kind", ["cca", "gated"])
def test_which_input_reaches_which_output(kind):
  """Rows: apart, a2v, v2a, joint. The detached reference passes no gradient."""
  run, params = model(fusion=Frozen(kind=kind))
  state, *others = tiny.inputs()
  out, pull = jax.vjp(lambda state: run(params, state, *others), state)

  def reach(of, wrt):
    """Whether the squares of output `of` reach the latents `wrt`, by task."""
    loss = {s: x if s == of else jnp.zeros_like(x) for s, x in out.items()}
    gradient = pull(loss)[0][wrt]
    return np.asarray(jnp.abs(gradient).reshape(tiny.B, -1).sum(1) > 0)

  assert reach("video", "video").all() and reach("audio", "audio").all()
  assert reach("video", "audio").tolist() == [False, False, False, True]
  assert reach("audio", "video").tolist() == [False, False, False, True]


def test_what_each_output_depends_on_in_value():
  """Detached or not, a2v's video does follow its audio, and no more than it."""
  run, params = model()
  state, t, text, route = tiny.inputs()
  before = run(params, state, t, text, route)
  for changed_stream, row in (("audio", [0, 1, 0, 1]), ("video", [0, 0, 1, 1])):
    moved = state | {changed_stream: state[changed_stream] + 1}
    after = run(params, moved, t, text, route)
    s = other(changed_stream)
    differs = jnp.abs(after[s] - before[s]).reshape(tiny.B, -1).max(1) > 1e-6
    assert differs.astype(int).tolist() == row


def test_gradients_by_task_reach_the_right_parameters():
  """The table of DCR, for parameters: 1 where the task's own loss arrives."""
  run, params = model()
  state, t, text, route = tiny.inputs()
  both = ("video", "audio")

  @jax.jit
  @jax.grad
  def gradient(params, weight):
    out = run(params, state, t, text, route)
    losses = [jnp.square(out[s]).reshape(tiny.B, -1).sum(1) for s in both]
    return jnp.sum(jnp.stack(losses) * weight)

  for task, streams in enumerate((both, ("video",), ("audio",), both)):
    weight = jnp.zeros((2, tiny.B))
    for s in streams:
      weight = weight.at[both.index(s), task].set(1)
    found = trees.flatten(gradient(params, weight))

    def reached(path, found=found):
      return float(jnp.abs(found[path]).max()) > 0

    for s in ("video", "audio"):
      own = [p for p in found if p.startswith(f"{s}/")]
      assert any(map(reached, own)) == (s in streams), (task, s)
      assert reached(f"fusion/{s}/context") == (s in streams), (task, s)


def test_dropped_exchange_equals_independent_towers():
  run, params = model()
  state, t, text, route = tiny.inputs()
  off = route._replace(exchanges=jnp.zeros(tiny.B, bool))
  dropped = run(params, state, t, text, off)
  towers, _ = model(fusion=Frozen(kind="independent"))
  alone = towers({s: params[s] for s in state}, state, t, text, route)
  assert largest(dropped, alone) < 1e-5


def test_parts_of_table_two_differ():
  """Gate, + TARP, + LCT and DCR are four different models, all finite."""
  outputs = []
  cca = tiny.SETTINGS["fusion"]
  for fusion in (
    dict(kind="gated"),
    dict(kind="gated", tarp=True),
    cca | dict(tarp=False),
    cca | dict(dcr=False),
    cca | dict(positions="seconds"),
  ):
    run, params = model(fusion=Frozen(fusion))
    outputs.append(run(params, *tiny.inputs()))
  run, params = model()
  outputs.append(run(params, *tiny.inputs()))
  assert all(bool(jnp.isfinite(x).all()) for o in outputs for x in o.values())
  for i, a in enumerate(outputs):
    for b in outputs[i + 1 :]:
      assert largest(a, b) > 1e-4


@pytest.mark.parametrize(
  ("size", "video", "audio"),
  # Wan2.1-T2V's own counts, and the design's 1.86B estimate of the audio.
  [
    ("1.3b", 1_418_996_800, 356_716_052),
    ("14b", 14_288_491_584, 1_883_268_628),
  ],
)
def test_full_sizes_have_their_parameters(size, video, audio):
  from configs.ccl import get_config

  _, params = functional.describe(get_config(f"size={size}").model.to_dict())
  assert trees.count(params["video"]) == video
  assert trees.count(params["audio"]) == audio
  assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
  ("fields", "words"),
  [
    ({"remat": "some"}, "remat='some'"),
    ({"fusion": Frozen(kind="cc")}, "independent, gated, cca"),
    ({"fusion": Frozen(kind="cca", lct=3)}, "key 'model.fusion.lct'"),
    ({"fusion": Frozen(kind="cca", positions="x")}, "index"),
    ({"fusion": Frozen(kind="cca", num_video_lct=-1)}, "num_video_lct=-1"),
    ({"num_layers": 0}, "num_layers=0: expected at least 1"),
    ({"video": Frozen(tiny.SETTINGS["video"] | {"heads": 0})}, "heads=0"),
  ],
)  # fmt: skip
def test_wrong_settings_are_named(fields, words):
  with pytest.raises(ValueError, match=words):
    functional.describe(changed(**fields))


def test_wrong_shapes_are_named():
  run, params = model()
  state, t, text, route = tiny.inputs()
  wrong = {
    "multiple of 2": state | {"audio": state["audio"][:, :5]},
    "differ in frames": state | {"audio": state["audio"][:, :4]},
    "multiples of the patch": state | {"video": state["video"][:, :, :3]},
  }
  for words, bad in wrong.items():
    with pytest.raises(ValueError, match=words):
      run(params, bad, t, text, route)


def test_an_image_that_cannot_be_told_is_named():
  state, t, text, route = tiny.inputs()

  def refuses(words, run, params, image, state=state):
    with pytest.raises(ValueError, match=words):
      run(params, state, t, text, route, image)

  tokens = Image(tokens=jnp.zeros((tiny.B, 3, 6)))
  refuses("does not read them", *model(), tokens)
  refuses("for the video stream", *model(), tokens, {"audio": state["audio"]})
  told = dict(condition_channels=5, image_width=6)
  graph, shapes = functional.describe(
    changed(
      video=tiny.SETTINGS["video"] | told,
      audio=None,
      fusion=Frozen(kind="independent"),
    )
  )
  short = Image(latents=jnp.zeros((tiny.B, 1, tiny.H, tiny.W, 5)))
  run = functools.partial(
    jax.eval_shape, functools.partial(functional.velocity, graph)
  )
  video = {"video": state["video"]}
  refuses("latents of an image are", run, shapes, short, video)
  with pytest.raises(ValueError, match="only a video stream"):
    functional.describe(changed(audio=tiny.SETTINGS["audio"] | told))

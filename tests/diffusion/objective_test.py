import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags

from ccl_jax import noise_schedule
from ccl_jax.array_types import expand
from ccl_jax.diffusion import loss
from ccl_jax.diffusion import objective as objectives
from ccl_jax.diffusion.objective import Objective
from ccl_jax.diffusion.tasks import TASK_NAMES
from configs.ccl import get_config

B, F, M = 8, 3, 6


def batch(b=B, **changes):
  keys = jax.random.split(jax.random.key(7), 3)
  return {
    "video": jax.random.normal(keys[0], (B, F, 2, 2, 4))[:b],
    "audio": jax.random.normal(keys[1], (B, M, 3))[:b],
    "text": jax.random.normal(keys[2], (B, 5, 4))[:b],
    "null_text": jnp.zeros((5, 4)),
    "has_video": jnp.ones(b, bool),
    "has_audio": jnp.ones(b, bool),
  } | changes


def example(settings, data=None):
  data = batch() if data is None else data
  key = jax.random.key(0)
  return objectives.make_training_example(key, data, settings)


def only(name):
  """Settings that draw one task always."""
  probabilities = tuple(float(name == task) for task in TASK_NAMES)
  return Objective(probabilities=probabilities)


def test_state_is_the_flow_of_its_own_data():
  data = batch()
  drawn = example(Objective(first_frame_probability=0.5))
  for stream in ("video", "audio"):
    t = drawn.t[stream]
    t = t.reshape(t.shape + (1,) * (data[stream].ndim - t.ndim))
    # x_t = x0 + t (noise - x0)
    np.testing.assert_allclose(
      drawn.x_t[stream], data[stream] + t * drawn.target[stream], atol=1e-5
    )


@pytest.mark.parametrize(
  "name, given", [("a2v", "audio"), ("v2a", "video"), ("joint", None)]
)
def test_loss_covers_generated_streams_only(name, given):
  drawn = example(only(name))
  wrong = jax.tree.map(lambda x: x + 2.0, drawn.target)
  value, metrics = loss.loss(wrong, drawn, Objective())
  weights = {"video": 0.85, "audio": 0.15}
  expected = sum(4 * weights[s] for s in weights if s != given)
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  gradient = jax.grad(lambda p: loss.loss(p, drawn, Objective())[0])(wrong)
  for stream in weights:
    assert (gradient[stream] == 0).all() == (stream == given)
  for key, count in metrics["count"].items():
    if key.startswith("loss/"):
      assert count == (B if key.startswith(f"loss/{name}/") else 0)
    np.testing.assert_allclose(metrics["sum"][key], 4 * count, rtol=1e-5)
  if given:
    assert (drawn.t[given] == 0).all()
    np.testing.assert_array_equal(drawn.x_t[given], batch()[given])


@pytest.mark.parametrize("groups", ["loss/", "loss_t/"])
def test_metrics_split_the_loss_by_stream_and_task_or_time(groups):
  settings = Objective(first_frame_probability=0.5)
  drawn = example(settings)
  prediction = jax.tree.map(jnp.zeros_like, drawn.target)
  value, metrics = loss.loss(prediction, drawn, settings)
  for stream in ("video", "audio"):
    names = [k for k in metrics["sum"] if k.startswith(groups) and stream in k]
    count = sum(metrics["count"][name] for name in names)
    assert count == drawn.route.is_generated[stream].sum()
    value -= settings.weight(stream) * sum(metrics["sum"][k] for k in names) / B
  np.testing.assert_allclose(value, 0, atol=1e-6)


def test_a_sample_counts_at_its_noisy_time():
  drawn = example(only("joint"))
  times = jnp.array([0.0, 0.1, 0.19, 0.3, 0.5, 0.61, 0.99, 1.0])
  frames = jnp.broadcast_to(times[:, None, None], (B, F, 1)).at[:, 0].set(0)
  drawn = drawn._replace(t={"video": frames, "audio": times})
  prediction = drawn.target | {
    "audio": drawn.target["audio"].at[3].set(jnp.nan)
  }
  _, metrics = loss.loss(prediction, drawn, Objective())
  bins = ("0.0-0.2", "0.2-0.4", "0.4-0.6", "0.6-0.8", "0.8-1.0")
  for stream in ("video", "audio"):
    names = [f"loss_t/{stream}/{fifth}" for fifth in bins]
    assert [int(metrics["count"][n]) for n in names] == [3, 1, 1, 1, 2]
    sums = [float(metrics["sum"][name]) for name in names]
    bad = [stream == "audio" and fifth == "0.2-0.4" for fifth in bins]
    np.testing.assert_array_equal(np.isnan(sums), bad)


def test_absent_streams_have_no_loss_and_one_stream_may_be_left_out():
  absent = batch(has_video=jnp.zeros(B, bool))
  drawn = example(only("joint"), data=absent)
  assert (drawn.task == 0).all() and not drawn.loss_mask["video"].any()
  alone = {k: v for k, v in absent.items() if "video" not in k}
  only_audio = example(only("joint"), data=alone)
  assert set(only_audio.x_t) == {"audio"}
  np.testing.assert_array_equal(only_audio.x_t["audio"], drawn.x_t["audio"])
  value, _ = loss.loss(only_audio.target, only_audio, Objective())
  assert value == 0


def test_a_sample_does_not_depend_on_the_rest_of_the_batch():
  settings = Objective(first_frame_probability=0.5, text_dropout=0.5)
  many, few = example(settings), example(settings, data=batch(2))
  jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[:2], y), many, few)


def test_text_is_dropped_for_its_fraction_of_samples():
  data = {
    "audio": jnp.zeros((400, 1, 1)),
    "has_audio": jnp.ones(400, bool),
    "text": jnp.ones((400, 5, 4)),
    "null_text": jnp.zeros((5, 4)),
  }
  text = np.asarray(example(Objective(text_dropout=0.25), data=data).text)
  assert (text == text[..., :1, :1]).all()  # a sample's text as a whole
  np.testing.assert_allclose(text.mean(), 0.75, atol=0.07)
  assert (example(Objective(text_dropout=1.0)).text == 0).all()


def test_first_frames_are_given_only_where_video_is_generated():
  assert example(Objective()).t["video"].shape == (B,)  # the fast path
  drawn = example(Objective(first_frame_probability=1.0))
  generated = np.asarray(drawn.route.is_generated["video"])
  assert 0 < generated.sum() < B
  t, weight = drawn.t["video"], drawn.loss_mask["video"].reshape(B, F)
  assert t.shape == (B, F, 1)
  np.testing.assert_array_equal(
    drawn.x_t["video"][:, 0], batch()["video"][:, 0]
  )
  np.testing.assert_array_equal(weight[:, 0], np.zeros(B))
  np.testing.assert_array_equal(weight[:, 1], generated)
  np.testing.assert_array_equal(t[:, 0, 0], np.zeros(B))
  np.testing.assert_array_equal(t[:, 1, 0] > 0, generated)


@pytest.mark.parametrize(
  "wrong",
  [
    {"time_shift": 0.0},
    {"time_shift": {"video": 5.0, "audio": -1.0}},
    {"time_shift": {"video": 5.0}},
    {"time_shift": {"video": 5.0, "audio": 1.0, "text": 1.0}},
    {"time_shift": float("nan")},
    {"time_shift": {"video": 5.0, "audio": "three"}},
    {"time_std": -1.0},
    {"time_std": {"video": 1.0, "audio": 0.0}},
    {"time_mean": {"audio": 0.0}},
    {"time_mean": float("nan")},
    {"video_weight": -0.1},
    {"text_dropout": 1.5},
    {"first_frame_probability": -0.1},
    {"probabilities": (0.5, 0.5)},
    {"probabilities": (0.5, 0.5, 0.5, -0.5)},
    {"probabilities": (0.1, 0.1, 0.1, 0.1)},
    {"time_shift_shape": (49, 64)},
    {"time_shift_shape": (49, 64, 0)},
  ],
)
def test_wrong_numbers_are_named(wrong):
  with pytest.raises(ValueError, match=next(iter(wrong))):
    Objective(**wrong)


def test_times_may_be_set_by_stream_in_a_config_and_by_a_flag(monkeypatch):
  config = get_config("size=tiny")
  config.objective.time_shift = {"video": 5.0, "audio": 3.0}
  made = Objective(**config.to_dict()["objective"])
  assert made.times == {"video": (0.0, 1.4, 5.0), "audio": (0.0, 1.4, 3.0)}
  hash(made)
  holder, config = flags.FlagValues(), get_config("size=tiny")
  argv = [
    "train", "--config.objective.time_shift={'video': 5.0, 'audio': 3.0}",
    "--config.objective.time_std=2",
  ]  # fmt: skip
  monkeypatch.setattr("sys.argv", argv)
  config_flags.DEFINE_config_dict("config", config, flag_values=holder)
  holder(argv)
  made = Objective(**config.to_dict()["objective"])
  assert made.times == {"video": (0.0, 2, 5.0), "audio": (0.0, 2, 3.0)}


def test_the_shift_grows_with_the_root_of_the_latents():
  """Of a clip of four times the pixels, or of as many in a longer one."""
  shapes = {"video": [13, 16, 16, 10], "audio": [65, 8], "text": [32, 64]}
  fixed = Objective(time_shift=3.0)
  assert fixed.for_shapes(shapes) is fixed
  own = Objective(time_shift=3.0, time_shift_shape=(49, 64, 64))
  assert own.for_shapes(shapes).time_shifts == {"video": 6.0, "audio": 3.0}
  shapes = {"video": [52, 8, 8, 10], "audio": [260, 8], "text": [32, 64]}
  assert own.for_shapes(shapes).time_shifts == {"video": 6.0, "audio": 6.0}
  shapes = {"video": [13, 8, 8, 10], "audio": [65, 8], "text": [32, 64]}
  assert own.for_shapes(shapes).time_shifts == own.time_shifts
  hash(own.for_shapes(shapes))


def compiled_example(settings, data=None):
  """As `example`, in one program."""
  run = jax.jit(functools.partial(example, settings))
  return run(batch() if data is None else data)


def test_a_picture_is_a_frame_of_its_clip_without_loss():
  """Of those whose video is generated; half of them the first frame."""
  data = batch(b=8)
  data = {
    k: v if k == "null_text" else jnp.repeat(v, 32, 0) for k, v in data.items()
  }
  drawn = compiled_example(Objective(reference_probability=0.5), data)
  has, generated = drawn.image.has_references[:, 0], drawn.route.is_generated
  assert not (has & ~generated["video"]).any()
  assert 0.4 < has[generated["video"]].mean() < 0.6
  picture, video = drawn.image.references, data["video"]
  same = (video == picture).all((2, 3, 4))  # (b, f)
  assert (same[has].sum(1) == 1).all() and not picture[~has].any()
  assert 0.5 < same[has][:, 0].mean() < 0.85  # 1/2 + 1/2 of a third
  counted = drawn.loss_mask["video"][:, :, 0, 0, 0]
  np.testing.assert_array_equal(counted[has], ~same[has])
  assert counted[generated["video"] & ~has].all()


def test_all_else_is_drawn_as_without_pictures():
  """And a video of one frame, which could only be copied, has none."""
  one, other = (
    compiled_example(
      Objective(reference_probability=p, first_frame_probability=0.5)
    )
    for p in (0.0, 0.9)
  )
  assert one.image is None
  for name in ("x_t", "t", "text", "route", "target", "task"):
    jax.tree.map(
      np.testing.assert_array_equal, getattr(one, name), getattr(other, name)
    )
  still = batch(video=batch()["video"][:, :1], audio=batch()["audio"][:, :2])
  drawn = compiled_example(Objective(reference_probability=1.0), still)
  assert not drawn.image.has_references.any()
  assert drawn.loss_mask["video"].any()


def test_the_error_of_noise_is_that_of_the_noise_which_the_velocity_implies():
  """Times are those of DDPM's steps; the first frame of some is clean."""
  settings = Objective(
    error="noise", time_distribution="ddpm", first_frame_probability=0.5,
    probabilities=(0.0, 0.0, 0.0, 1.0),
  )  # fmt: skip
  drawn = example(settings)
  t = np.asarray(drawn.t["video"]).reshape(B, -1).max(1)
  gaps = np.abs(t[:, None] - noise_schedule.STEP_TIMES).min(1)
  assert gaps.max() < 1e-6 and len(np.unique(t)) > B // 2
  np.testing.assert_array_equal(t, drawn.t["audio"])
  wrong = jax.tree.map(lambda x: x + 2.0, drawn.target)

  def noise(s, velocity):  # x0 = x_t - t v, noise = x0 + v
    time = expand(drawn.t[s], velocity.ndim)
    return drawn.x_t[s] + (1 - time) * velocity

  expected = 0.0
  for s, weight in {"video": 0.85, "audio": 0.15}.items():
    error = (noise(s, wrong[s]) - noise(s, drawn.target[s])) ** 2
    mask = jnp.broadcast_to(drawn.loss_mask[s], error.shape)
    each = [e[m].mean() for e, m in zip(error, mask, strict=True)]
    expected += weight * np.mean(each)
  value, _ = loss.loss(wrong, drawn, settings)
  np.testing.assert_allclose(value, expected, rtol=1e-4)

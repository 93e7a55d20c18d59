import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags

from ccl_jax.diffusion.objective import Objective
from configs.ccl import get_config
from tests.diffusion.examples import B, F, batch, example


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


def shifts(objective):
  return {s: shift for s, (_, _, shift) in objective.times.items()}


def test_the_shift_grows_with_the_root_of_the_latents():
  """Of a clip of four times the pixels, or of as many in a longer one."""
  shapes = {"video": [13, 16, 16, 10], "audio": [65, 8], "text": [32, 64]}
  fixed = Objective(time_shift=3.0)
  assert fixed.for_shapes(shapes) is fixed
  own = Objective(time_shift=3.0, time_shift_shape=(49, 64, 64))
  assert shifts(own.for_shapes(shapes)) == {"video": 6.0, "audio": 3.0}
  shapes = {"video": [52, 8, 8, 10], "audio": [260, 8], "text": [32, 64]}
  assert shifts(own.for_shapes(shapes)) == {"video": 6.0, "audio": 6.0}
  shapes = {"video": [13, 8, 8, 10], "audio": [65, 8], "text": [32, 64]}
  assert shifts(own.for_shapes(shapes)) == shifts(own)
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

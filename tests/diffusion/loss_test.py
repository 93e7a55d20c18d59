import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.array_types import expand
from ccl_jax.diffusion import loss
from ccl_jax.diffusion.objective import Objective
from ccl_jax.ops import noise_schedule
from tests.diffusion.examples import B, F, batch, example, only


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

import jax
import jax.numpy as jnp
import numpy as np

from ccl_jax.array_types import expand
from ccl_jax.diffusion import flow

X0 = jax.random.normal(jax.random.key(0), (2, 3, 4, 4, 5))
NOISE = jax.random.normal(jax.random.key(1), X0.shape)


def test_interpolate_goes_from_data_to_noise_along_the_velocity():
  for t in (jnp.array([0.0, 1.0]), jnp.zeros((2, 3, 1)).at[1].set(1.0)):
    x_t = flow.interpolate(X0, NOISE, t)
    np.testing.assert_array_equal(x_t[0], X0[0])
    np.testing.assert_array_equal(x_t[1], NOISE[1])
  t = jnp.array([0.3, 0.8])
  _, slope = jax.jvp(lambda t: flow.interpolate(X0, NOISE, t), (t,), (t**0,))
  np.testing.assert_allclose(slope, NOISE - X0, atol=1e-6)


def test_times_per_frame_reach_their_frame_only():
  t = jnp.full((2, 3, 1), 0.5).at[:, 0].set(0.0)
  x_t = flow.interpolate(X0, NOISE, t)
  np.testing.assert_array_equal(x_t[:, 0], X0[:, 0])
  np.testing.assert_allclose(x_t[:, 1:], (X0 + NOISE)[:, 1:] / 2, atol=1e-6)


def test_mask_time_is_per_sample_unless_the_mask_is_per_frame():
  t = jnp.array([0.3, 0.8])
  per_sample = flow.mask_time(t, jnp.array([True, False])[:, None, None])
  np.testing.assert_allclose(per_sample, [0.0, 0.8])
  first = jnp.broadcast_to(jnp.arange(3) == 0, (2, 3))
  per_frame = flow.mask_time(t, expand(first, 5))
  assert per_frame.shape == (2, 3, 1)
  np.testing.assert_allclose(per_frame[..., 0], [[0, 0.3, 0.3], [0, 0.8, 0.8]])


def test_shift_keeps_the_ends_and_inverts():
  t = np.linspace(0, 1, 11)
  shifted = flow.shift_time(t, 5.0)
  np.testing.assert_allclose(shifted, 5 * t / (1 + 4 * t))
  assert shifted[0] == 0 and shifted[-1] == 1 and (np.diff(shifted) > 0).all()
  np.testing.assert_allclose(flow.shift_time(shifted, 1 / 5), t, atol=1e-12)


def test_sample_time_is_logit_normal():
  t = np.asarray(flow.sample_time(jax.random.key(0), (10_000,), 0.5, 2.0))
  logit = np.log(t / (1 - t))
  np.testing.assert_allclose([logit.mean(), logit.std()], [0.5, 2], atol=0.06)


def test_mse_is_a_mean_over_the_mask_of_each_sample():
  mask = expand(jnp.array([[True, True, False], [False] * 3]), 5)
  prediction = NOISE.at[:, 2].set(jnp.nan)  # what is masked may be anything
  error = flow.mse(prediction, X0, mask)
  expected = np.mean((NOISE[0, :2] - X0[0, :2]) ** 2)
  np.testing.assert_allclose(error, [expected, 0.0], rtol=1e-6)


def test_noise_of_an_item_depends_on_its_key_alone():
  keys = flow.sample_keys(jax.random.key(3), 4)
  shapes = {"video": (3, 4, 4, 5), "audio": (6, 2)}
  joint = flow.draw_noise(keys, shapes)
  alone = flow.draw_noise(keys[2:3], {"audio": shapes["audio"]})
  np.testing.assert_array_equal(joint["audio"][2], alone["audio"][0])
  values = np.concatenate([x.ravel() for x in joint.values()])
  assert len(np.unique(values)) == len(values)

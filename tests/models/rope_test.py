"""RoPE against Wan's complex, interleaved definition."""

import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.models import rope
from ccl_jax.models.fusion.cca import frame_times


def wan_rotate(x, position, head_size):
  """Wan's: neighbours (2p, 2p + 1) as complex numbers, axes t, h, w."""
  angles = [
    np.outer(p, rope.THETA ** (-np.arange(0, d, 2) / d))
    for p, d in zip(position, rope.axis_dims(head_size), strict=True)
  ]
  turn = np.exp(1j * np.concatenate(angles, -1))  # n, e/2
  z = x[..., 0::2] + 1j * x[..., 1::2]
  z = z * turn[None, :, None]
  return np.stack([z.real, z.imag], -1).reshape(x.shape)


@pytest.mark.parametrize("rotate", [rope.rotate, rope.rotate.__wrapped__])
@pytest.mark.parametrize("head_size", [24, 32, 128])
def test_half_split_rotation_equals_wans(head_size, rotate):
  f, h, w = 3, 2, 5
  x = np.random.default_rng(0).normal(size=(2, f * h * w, 2, head_size))
  t, y, z = np.meshgrid(np.arange(f), np.arange(h), np.arange(w), indexing="ij")
  expected = wan_rotate(x, (t.ravel(), y.ravel(), z.ravel()), head_size)
  order = rope.half_split_order(head_size)
  angles = rope.video_angles(np.arange(f, dtype=float), h, w, head_size)
  ours = rotate(jnp.asarray(x[..., order], jnp.float32), angles)
  np.testing.assert_allclose(ours, expected[..., order], atol=2e-5)


def test_axis_dims_of_wan():
  assert rope.axis_dims(128) == (44, 42, 42)
  assert sum(rope.axis_dims(32)) == 32


def test_order_is_a_permutation_that_undoes_itself():
  order = rope.half_split_order(8)
  assert order.tolist() == [0, 2, 4, 6, 1, 3, 5, 7]
  assert np.argsort(order)[order].tolist() == list(range(8))


def test_index_positions_put_c_latents_on_a_frame():
  times = frame_times("index", f=4, c=5, fps=25.0)
  assert times["video"].tolist() == [0, 1, 2, 3]
  np.testing.assert_allclose(times["audio"][:6], [0, 0.2, 0.4, 0.6, 0.8, 1.0])


def test_second_positions_are_the_middle_of_what_a_latent_covers():
  """Frame i >= 1 covers pixel frames 4i-3 .. 4i; latent j 32 ms."""
  fps = 25.0
  times = frame_times("seconds", f=4, c=5, fps=fps)
  seconds = {s: x * 4 / fps for s, x in times.items()}
  pixels = [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]
  middle = [(p[0] + p[-1] + 1) / 2 / fps for p in pixels]
  np.testing.assert_allclose(seconds["video"], middle)
  np.testing.assert_allclose(seconds["audio"], (np.arange(20) + 0.5) / 31.25)


@pytest.mark.parametrize("c, rate", [(8, 50.0), (6.25, 39.0625)])
def test_latents_of_another_codec_have_its_rate(c, rate):
  times = frame_times("seconds", f=4, c=c, fps=25.0)
  num = len(times["audio"])
  assert num == round(4 * c)
  np.testing.assert_allclose(
    times["audio"] * 4 / 25.0, (np.arange(num) + 0.5) / rate
  )


def test_fine_positions_are_seconds_in_audio_latents():
  seconds, fine = (frame_times(p, 4, 5, 25.0) for p in ("seconds", "fine"))
  for s in seconds:
    np.testing.assert_allclose(fine[s], 5 * seconds[s])
  np.testing.assert_allclose(np.diff(fine["audio"]), 1)


def test_unscaled_positions_count_latents():
  times = frame_times("unscaled", f=2, c=3, fps=25.0)
  assert times["audio"].tolist() == [0, 1, 2, 3, 4, 5]


def test_only_the_time_channels_of_audio_turn():
  angles = rope.time_angles(np.arange(4.0), 32)
  t_dims = rope.axis_dims(32)[0] // 2
  assert bool((angles[1:, :t_dims] != 0).all())
  assert bool((angles[:, t_dims:] == 0).all())

"""Requests that every backend must answer alike, and how they are compared."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ccl_jax.attention import FrameBlocks, Full, Mask, Window, attend

VIDEO = Window(15, 5, radius=1, num_context=3)  # video reads audio
AUDIO = Window(5, 15, radius=0, num_context=3)  # audio reads video
FRAMES = 7


def sizes(window, frames=FRAMES):
  """The number of queries and keys of so many frames."""
  keys = window.num_context + window.k_per_frame * frames
  return window.q_per_frame * frames, keys


def routed(window, sees=(True, False)):
  n, m = sizes(window)
  return Mask.routed(window, jnp.array(sees), n, m), n, m


def _padded(window, lengths):
  return Mask(window, k_lengths=jnp.array(lengths)), *sizes(window)


def _hidden(window):
  """Every seventh key is of nobody, as where a frame has fewer latents."""
  mask, n, m = routed(window)
  return mask.hide(np.arange(m) % 7 == 6, 2, n), n, m


def _windowed_blocks(frames):
  window = Window(40, 30, radius=1, num_context=3)
  return Mask(window), *sizes(window, frames)


WINDOWS = {
  "audio": (Mask(AUDIO), *sizes(AUDIO)),
  "video, mixed routes": routed(VIDEO),
  "audio, mixed routes": routed(AUDIO),
  "video, key lengths": _padded(VIDEO, (20, 38)),
  "video, hidden keys": _hidden(VIDEO),
  "no context": (
    Mask(Window(3, 2, radius=2)),
    *sizes(Window(3, 2, radius=2)),
  ),
}
OTHERS = {
  "full": (Mask(), 21, 13),
  "full, the first keys": (Mask(Full(9)), 21, 13),
  "full, whole blocks": (Mask(), 128, 128),
  "full, key lengths": (Mask(k_lengths=jnp.array([7, 13])), 21, 13),
  "window over several blocks": _windowed_blocks(7),
  "blocks of frames": (Mask(FrameBlocks(30, 7, 4)), 5 * 37, 5 * 37),
}


def draw(n, m, b=2, k=2, e=16, dtype=jnp.float32):
  """Random q, k, v."""
  random = np.random.RandomState(0)
  shapes = [(b, n, k, e), (b, m, k, e), (b, m, k, e)]
  return [jnp.asarray(random.randn(*shape), dtype) for shape in shapes]


# Each program runs once, so compiling fast beats running fast.
_jit = functools.partial(
  jax.jit,
  static_argnums=0,
  compiler_options={"xla_backend_optimization_level": 0},
)


@_jit
def run(backend, mask, q, k, v):
  """The output alone, compiled (eager compiles one operation at a time)."""
  return attend(q, k, v, mask, backend=backend)


@_jit
def value_and_gradients(backend, mask, q, k, v):
  """The output, and the gradients of an uneven function of it."""

  def loss(q, k, v):
    out = attend(q, k, v, mask, backend=backend)
    return jnp.sum(jnp.sin(out)), out

  grads, out = jax.grad(loss, (0, 1, 2), has_aux=True)(q, k, v)
  return out, *grads


def assert_equals_reference(backend, mask, n, m, b=2):
  """Values and all three gradients, to float32 rounding."""
  arrays = draw(n, m, b)
  got = value_and_gradients(backend, mask, *arrays)
  expected = value_and_gradients("reference", mask, *arrays)
  for x, y in zip(got, expected, strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)
